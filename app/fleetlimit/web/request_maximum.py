"""Largest number of output tokens that a request to a large language model states.

The body is read before the app receives it, and then replayed to the app message by message.
"""

import json
from typing import Any, Final

from starlette.types import Message, Receive, Scope

from fleetlimit.core.quota import MAX_SAFE_INTEGER
from fleetlimit.core.usage import Provider, Usage

_MAXIMA: Final = {
    Provider.OPENAI: ("max_completion_tokens", "max_output_tokens", "max_tokens"),
    Provider.ANTHROPIC: ("max_tokens",),
}
_MAX_CHOICES: Final = 128
"""Largest `n` of Chat Completions: answers to one request, each of which has the maximum."""


class ReplayedReceive:
    """A server's `receive` that first returns messages that were received before.

    Args:
        messages: The messages, in their order; they are removed as the app receives them.
        receive: The server's `receive`.
    """

    def __init__(self, messages: list[Message], receive: Receive) -> None:
        self._messages = messages
        self._receive = receive

    async def __call__(self) -> Message:
        """Return the next message."""
        # A body has few messages.
        return self._messages.pop(0) if self._messages else await self._receive()


class RequestBody:
    """Body of a request, which is read at most once, before the app receives it.

    Args:
        scope: ASGI scope of the request.
        receive: The server's `receive`.
    """

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._scope = scope
        self._server_receive = receive
        self._body: bytes | None = None
        self.receive: Receive = receive
        """The `receive` for the app, which replays what was read."""

    async def stated_maximum(self, usage: Usage) -> int | None:
        """Return the largest number of output tokens that the request states; None without one.

        It is None for a body that is larger than `usage` permits, encoded, or not JSON, and for a
        client that has disconnected.
        """
        if self.receive is self._server_receive and _is_readable(self._scope, usage):
            self._body = await self._read(usage.max_request_bytes)
        return stated_maximum(self._body, usage.provider)

    async def _read(self, left: int) -> bytes | None:
        messages: list[Message] = []
        self.receive = ReplayedReceive(messages, self._server_receive)
        while True:
            message = await self._server_receive()
            messages.append(message)
            left -= len(message.get("body", b""))
            if message["type"] != "http.request" or left < 0:
                return None
            if not message.get("more_body"):
                return b"".join([each.get("body", b"") for each in messages])


def _is_readable(scope: Scope, usage: Usage) -> bool:
    """Return whether the headers state a JSON body that is small enough."""
    if scope["type"] != "http":
        return False
    headers = dict(scope["headers"])
    length = headers.get(b"content-length", b"0")
    return (
        is_json(headers.get(b"content-type", b""))
        and headers.get(b"content-encoding", b"identity") == b"identity"
        and length.isdigit()
        and len(length) <= len(str(MAX_SAFE_INTEGER))
        and int(length) <= usage.max_request_bytes
    )


def is_json(content_type: bytes) -> bool:
    """Return whether a Content-Type is that of JSON."""
    media_type = content_type.partition(b";")[0].strip().lower()
    return media_type == b"application/json" or media_type.endswith(b"+json")


def stated_maximum(body: bytes | None, provider: Provider) -> int | None:
    """Return the largest number of output tokens that a request states; None without one.

    Args:
        body: Body of the request.
        provider: Format of the request.
    """
    request: Any = None
    if body:
        try:
            request = json.loads(body)
        # Deep nesting, numbers of thousands of digits, or no JSON in UTF-8.
        except (ValueError, RecursionError):
            return None
    if not isinstance(request, dict):
        return None
    stated = max(_to_number(request.get(name)) for name in _MAXIMA[provider])
    if not stated:
        return None
    choices = _to_number(request.get("n")) if provider is Provider.OPENAI else 1
    if not 1 <= choices <= _MAX_CHOICES:
        choices = 1
    return min(stated * choices, MAX_SAFE_INTEGER)


def _to_number(value: Any) -> int:
    """Return a number from 1; 0 for any other value."""
    return value if type(value) is int and value > 0 else 0
