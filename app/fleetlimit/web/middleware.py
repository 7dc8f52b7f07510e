"""The limits of the policy file, before anything of the app runs: plain ASGI, nothing buffered."""

import copy
from collections.abc import Awaitable, Iterable
from typing import Any, Final, TypeVar

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fleetlimit.web.exceptions import send_refusal
from fleetlimit.web.http_limiter import Gate, find_gate
from fleetlimit.web.ratelimit_headers import EXPOSED, merged
from fleetlimit.web.request_limits import Visit, begin, visit_of
from fleetlimit.web.responses import Refusal
from fleetlimit.web.route_table import RouteTable, entry_of

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


_LIMITED = frozenset({"http", "websocket"})
Kind = TypeVar("Kind")


class RateLimitMiddleware:
    """Decides every request by the policies that match it, and by the route's own limits.

    Args:
        app: The app behind it.
        gate: Decides; the app's own when left out.
        routes: The routes of an app that is not Starlette's; the app's own when left out.
    """

    def __init__(
        self, app: ASGIApp, *, gate: Gate | None = None, routes: RouteTable | None = None
    ) -> None:
        self.app = app
        self._gate = gate
        self._routes = routes
        self._cors = _within(app, CORSMiddleware)
        self._starlette = _within(app, Starlette)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request in, or refuse it."""
        kind = scope["type"]
        if kind not in _LIMITED or (scope.get("method") == "OPTIONS" and _is_preflight(scope)):
            await self.app(scope, receive, send)
            return
        if self._starlette is not None:
            # Wrapped around the whole app by hand, it stands where no app is named yet.
            scope.setdefault("app", self._starlette)
        gate = self._gate or find_gate(scope)
        outer = visit_of(scope)
        if outer is not None and outer.gate is gate:
            await self.app(scope, receive, send)
            return
        entry = entry_of(scope, self._routes)
        visit = begin(scope, gate, entry, shows_headers=True)
        try:
            refusal = await visit.admit(scope, entry.asks, matched=True)
            if refusal is None:
                await self.app(scope, receive, Sender(visit, scope, send))
            elif self._cors is None and refusal.tells_limits:
                await send_refusal(refusal, scope, receive, send)
            else:
                await self._refuse(refusal, scope, receive, Sender(visit, scope, send))
        finally:
            if visit.holds_leases:
                await visit.leave()

    async def _refuse(self, refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            await send_refusal(refusal, scope, receive, send)

        if self._cors is None:
            await answer(scope, receive, send)
            return
        # CORS is handled further in, where a refused request never comes: without its headers a
        # browser's script would see a network error in place of the 429.
        cors = copy.copy(self._cors)
        cors.app = answer
        await cors(scope, receive, send)


def _is_preflight(scope: Scope) -> bool:
    """Tell of OPTIONS whether a browser asks before it asks (Fetch, CORS-preflight): it is free."""
    headers = Headers(scope=scope)
    return "origin" in headers and "access-control-request-method" in headers


def _within(app: Any, kind: type[Kind]) -> Kind | None:
    """Return the first of a kind among an app and what it is wrapped around."""
    while app is not None:
        if isinstance(app, kind):
            return app
        app = getattr(app, "app", None)
    return None
