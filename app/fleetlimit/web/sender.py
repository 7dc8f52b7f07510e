"""Sends an app's messages on, with the limits' fields on the first."""

from collections.abc import Awaitable, Iterable
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.types import Message, Scope, Send

from fleetlimit.core.headers import EXPOSED
from fleetlimit.web.refusal import merged
from fleetlimit.web.visit import Visit

_FIELDS: Final = frozenset(
    {"http.response.start", "websocket.accept", "websocket.http.response.start"}
)
_EXPOSE: Final = "Access-Control-Expose-Headers"
_OURS: Final = frozenset(
    name.lower().encode() for each in EXPOSED.values() for name in each.split(", ")
)
_ORIGIN: Final = frozenset({b"origin"})


class Sender:
    """Stands in place of a server's `send`.

    Args:
        visit: The request, and what was decided of it.
        scope: The request, as the server describes it.
        send: The server's.
    """

    __slots__ = ("_scope", "_send", "_visit")

    def __init__(self, visit: Visit, scope: Scope, send: Send) -> None:
        self._visit = visit
        self._scope = scope
        self._send = send

    def __call__(self, message: Message) -> Awaitable[None]:
        """Send a message on."""
        if message["type"] in _FIELDS and (ours := self._visit.fields()):
            theirs = message.get("headers", ())
            # Few apps have any of their own, and then no table of names is made.
            clash = _has(theirs, _OURS)
            message["headers"] = merged(theirs, ours) if clash else [*theirs, *ours]
            if _has(self._scope["headers"], _ORIGIN):
                self._expose(MutableHeaders(scope=message))
        return self._send(message)

    def _expose(self, headers: MutableHeaders) -> None:
        lists = [*headers.getlist(_EXPOSE), self._visit.gate.exposed]
        names = dict.fromkeys(name.strip() for one in lists for name in one.split(","))
        headers[_EXPOSE] = ", ".join(names)


def _has(fields: Iterable[tuple[bytes, bytes]], names: frozenset[bytes]) -> bool:
    """Tell whether one of the fields has one of the names; they are few, so no table is made."""
    for name, _ in fields:  # noqa: SIM110 - to make a generator takes as long as all else here
        if name in names:
            return True
    return False
