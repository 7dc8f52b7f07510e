"""Limiters, callers and ASGI requests sent message by message, for tests of `web`."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Self

import http_sf
from fastapi import FastAPI
from httpx2 import Headers, Response
from starlette.types import ASGIApp, Message, Scope

from fleetlimit.core.charge import Adjustment, Charge
from fleetlimit.core.policy import Policy
from fleetlimit.core.policy_set import PolicySet
from fleetlimit.core.subject import Principal
from fleetlimit.errors import IdentityError, StoreUnavailable
from fleetlimit.identity import ClientAddressResolver, RequestIdentifier
from fleetlimit.limiter.circuit_breaker import BreakerSettings
from fleetlimit.limiter.events import CheckDecided, Event
from fleetlimit.limiter.limiter import Limiter
from fleetlimit.limiter.store_replies import AcquireResult
from fleetlimit.stores.memory import MemoryStore
from fleetlimit.testing import ManualClock
from fleetlimit.web import wiring
from fleetlimit.web.header_layout import HeaderSpec
from fleetlimit.web.http_limiter import HTTPLimiter
from fleetlimit.web.ratelimit_headers import HeaderFormat
from support.eventually import PATIENCE_SECONDS

NEVER = 10**9
"""Consecutive failures that no test reaches, so that no probe runs in the background."""


async def resolve_x_caller(scope: Mapping[str, Any]) -> Principal | None:
    """Accept `x-caller: name` or `x-caller: name/tier`; the name `invalid` does not verify.

    Raises:
        IdentityError: The name is `invalid`.
    """
    found = dict(scope["headers"]).get(b"x-caller")
    if found is None:
        return None
    name, _, tier = found.decode().partition("/")
    if name == "invalid":
        raise IdentityError("no caller has that name", reason="unknown_caller")
    return Principal(name, tier)


class FallibleStore(MemoryStore):
    """Memory store that a test can make unavailable; its calls yield as those of a remote one."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock.monotonic_us)
        self.unavailable = False
        self.acquire_calls = 0

    async def acquire(self, charges: Sequence[Charge], *, dry_run: bool = False) -> AcquireResult:
        """Acquire after some iterations of the event loop."""
        self.acquire_calls += 1
        await _round_trip()
        if self.unavailable:
            raise StoreUnavailable("no answer", kind="timeout")
        return await super().acquire(charges, dry_run=dry_run)

    async def adjust(self, adjustments: Sequence[Adjustment]) -> Sequence[int]:
        """Adjust after some iterations of the event loop."""
        await _round_trip()
        if self.unavailable:
            raise StoreUnavailable("no answer", kind="timeout")
        return await super().adjust(adjustments)


async def _round_trip() -> None:
    """Yield for some iterations of the event loop."""
    for _ in range(5):
        await asyncio.sleep(0)


class LimiterBench:
    """A limiter over a store and a clock that a test controls."""

    def __init__(
        self,
        *policies: Policy,
        header_format: HeaderSpec = HeaderFormat.DRAFT_11,
        reject_invalid: bool = False,
    ) -> None:
        self.clock = ManualClock()
        self.store = FallibleStore(self.clock)
        self.routes: list[str] = []
        self.limiter = Limiter(
            self.store,
            local=MemoryStore(self.clock.monotonic_us),
            observers=[self],
            clock=self.clock,
            breaker=BreakerSettings(failures=NEVER),
        )
        self.limiter.active_policies.replace(PolicySet(policies))
        self.http_limiter = HTTPLimiter(
            self.limiter,
            RequestIdentifier(ClientAddressResolver(), resolver=resolve_x_caller),
            header_format=header_format,
            reject_invalid=reject_invalid,
        )

    def on_event(self, event: Event) -> None:
        """Record the route of each decision."""
        if isinstance(event, CheckDecided):
            self.routes.append(event.route)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.limiter.aclose()

    async def in_flight(self, policy: str) -> int:
        """Return the units in use of a policy whose key is the route or global."""
        decision = await self.limiter.peek(policy, cost=0)
        status = decision.results[0].limits[0].status
        assert status is not None
        return decision.results[0].limits[0].quota.limit - status.remaining

    def install(self, app: FastAPI) -> FastAPI:
        """Make this the limiter of an app."""
        wiring.install(app, self.http_limiter)
        return app


def caller(name: str) -> dict[str, str]:
    """Return the headers of this caller."""
    return {"x-caller": name}


def assert_each_once(headers: Headers) -> None:
    """Assert that no header is repeated."""
    names = [name.lower() for name, _ in headers.multi_items()]
    assert len(set(names)) == len(names), names


def parse_limits(response: Response) -> dict[str, dict[str, int]]:
    """Return the RateLimit headers of each limit, parsed as Structured Fields (RFC 9651).

    Also assert that both headers list the same limits, and that no header is repeated.
    """
    assert_each_once(response.headers)
    quotas = _members(response.headers.get("RateLimit-Policy"))
    states = _members(response.headers.get("RateLimit"))
    assert set(states) <= set(quotas)
    return {name: quotas[name] | states.get(name, {}) for name in quotas}


def _members(field: str | None) -> dict[str, dict[str, int]]:
    parsed: Any = [] if field is None else http_sf.parse(field.encode(), tltype="list")
    return {name: dict(parameters) for name, parameters in parsed}


def http_scope(
    path: str = "/",
    *,
    method: str = "GET",
    headers: Sequence[tuple[bytes, bytes]] = (),
    **others: Any,
) -> Scope:
    """Return the ASGI scope of a request; `others` replace or add keys."""
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(errors="surrogateescape"),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"testserver"), *headers],
        "client": ("192.0.2.1", 4711),
        "server": ("testserver", 80),
        **others,
    }


def websocket_scope(path: str = "/", *, extension: bool, **others: Any) -> Scope:
    """Return the ASGI scope of a handshake, with or without the denial-response extension."""
    scope = http_scope(path, **{"type": "websocket", "scheme": "ws", **others})
    del scope["method"]
    return {
        **scope,
        "subprotocols": [],
        "extensions": {"websocket.http.response": {}} if extension else {},
    }


class Exchange:
    """One request, exchanged message by message; the app can receive the given messages at once."""

    def __init__(self, app: ASGIApp, scope: Scope, *received: Message) -> None:
        self._app = app
        self._scope = scope
        self.inbox: asyncio.Queue[Message] = asyncio.Queue()
        for message in received or ({"type": "http.request", "body": b"", "more_body": False},):
            self.inbox.put_nowait(message)
        self.sent: asyncio.Queue[Message] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.ensure_future(self._run())
        return self

    async def _run(self) -> None:
        await self._app(self._scope, self.inbox.get, self.sent.put)

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait({self._task})

    def disconnect(self) -> None:
        """Disconnect the client."""
        self.inbox.put_nowait({"type": "http.disconnect"})

    async def next(self) -> Message:
        """Return the next message that the app sends."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.sent.get()

    async def end(self) -> list[Message]:
        """Wait until the app returns, and return the messages sent since the last `next`."""
        assert self._task is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self._task
        return [self.sent.get_nowait() for _ in range(self.sent.qsize())]


async def collect_messages(app: ASGIApp, scope: Scope, *received: Message) -> list[Message]:
    """Return all messages that an app sends for a request."""
    async with Exchange(app, scope, *received) as exchange:
        return await exchange.end()
