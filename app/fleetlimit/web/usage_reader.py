"""Tokens that the answer of a large language model states, read as the answer passes.

Chat Completions of OpenAI state them in `usage`, in a stream in its last chunk if the request asks
for it (`stream_options.include_usage`). Responses of OpenAI have it in `response.usage` of the
stream's last event. Messages of Anthropic have `usage`, and in a stream `message.usage` of
`message_start` and the cumulative `usage` of `message_delta`.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from fleetlimit.core.quota import MAX_SAFE_INTEGER
from fleetlimit.core.usage import Provider
from fleetlimit.web.usage_scanner import UsageScanner

_LINE_END: Final = re.compile(rb"\r\n|\r|\n")
_DATA: Final = b"data:"
_PARENTS: Final = {Provider.OPENAI: b"response", Provider.ANTHROPIC: b"message"}
_TOTAL: Final = "total_tokens"
_OPENAI_PAIRS: Final = (("prompt_tokens", "completion_tokens"), ("input_tokens", "output_tokens"))
_ANTHROPIC_FIELDS: Final = (
    "input_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "output_tokens",
)


class UsageReader:
    """Reader of one answer.

    Args:
        provider: Format of the answer.
        events: Whether the answer is a stream of server-sent events, and not one JSON text.

    Attributes:
        tokens: Tokens that the answer has stated so far; None without any.
        is_complete: Whether these are the tokens of the whole answer.
    """

    def __init__(self, provider: Provider, *, events: bool) -> None:
        self.tokens: int | None = None
        self.is_complete = False
        self._provider = provider
        self._fields: dict[str, int] = {}
        self._scanner = UsageScanner(_PARENTS[provider], self._on_found)
        self._too_large = False
        self.feed = self._feed_events if events else self._scanner.feed
        # Of the current line of an event stream: its first bytes, until its field is known.
        self._prefix: bytes | None = b""
        self._in_data = False
        self._skip_line_feed = False

    @property
    def is_too_large(self) -> bool:
        """Whether a text was too long to be scanned to its end."""
        return self._too_large or self._scanner.too_large

    def _feed_events(self, chunk: bytes) -> None:
        """Read the next bytes of an event stream (HTML standard, section 9.2.6)."""
        if not chunk:
            return
        at = 1 if self._skip_line_feed and chunk.startswith(b"\n") else 0
        self._skip_line_feed = False
        while at < len(chunk):
            found = _LINE_END.search(chunk, at)
            if found is None:
                self._on_line_part(chunk[at:])
                return
            self._on_line_part(chunk[at : found.start()])
            self._on_line_end()
            at = found.end()
            # The second byte of CR LF may be in the next chunk.
            self._skip_line_feed = at == len(chunk) and found[0] == b"\r"

    def _on_line_part(self, part: bytes) -> None:
        if self._prefix is not None:
            missing = len(_DATA) - len(self._prefix)
            self._prefix, part = self._prefix + part[:missing], part[missing:]
            if len(self._prefix) < len(_DATA):
                return
            self._in_data, self._prefix = self._prefix == _DATA, None
        if self._in_data:
            self._scanner.feed(part)

    def _on_line_end(self) -> None:
        if self._prefix == b"":
            # An empty line ends the event.
            self._too_large |= self._scanner.too_large
            self._scanner.reset()
        elif self._in_data:
            # The lines of one event are one text.
            self._scanner.feed(b"\n")
        self._prefix, self._in_data = b"", False

    def _on_found(self, text: bytes, is_own: bool) -> None:  # noqa: FBT001 - a callback
        try:
            usage = json.loads(text)
        # Deep nesting, numbers of thousands of digits, or no JSON.
        except (ValueError, RecursionError):
            return
        if self._provider is Provider.OPENAI:
            tokens = _openai_tokens(usage)
            if tokens is not None:
                self.tokens, self.is_complete = tokens, True
            return
        fields = _read_fields(usage, _ANTHROPIC_FIELDS)
        if fields:
            # The numbers of `message_delta` are cumulative, and it may have the output alone.
            self._fields |= fields
            self.tokens = min(sum(self._fields.values()), MAX_SAFE_INTEGER)
            self.is_complete |= is_own


def _openai_tokens(usage: Mapping[str, Any]) -> int | None:
    """Return the tokens of a `usage` object; None if it states none."""
    total = _read_fields(usage, (_TOTAL,))
    if total:
        return total[_TOTAL]
    for pair in _OPENAI_PAIRS if total is not None else ():
        fields = _read_fields(usage, pair)
        if fields:
            return min(sum(fields.values()), MAX_SAFE_INTEGER)
    return None


def _read_fields(usage: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, int] | None:
    """Return the fields that have a number of tokens; None if one has anything else.

    Of an object with a negative number or a fraction, no number can be relied on.
    """
    fields = {name: value for name in names if (value := usage.get(name)) is not None}
    if all(type(value) is int and value >= 0 for value in fields.values()):
        return {name: min(value, MAX_SAFE_INTEGER) for name, value in fields.items()}
    return None
