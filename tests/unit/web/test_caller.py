"""Checks by hand in a connection: messages of a WebSocket, endpoints, and the trap of a limit."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Response, WebSocket, WebSocketDisconnect
from fastapi.testclient import TestClient
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse

from fleetlimit import (
    Caller,
    ConfigError,
    DepCaller,
    DepLimiter,
    Fleetlimit,
    Policy,
    PolicyLimit,
    PolicySet,
    Principal,
    RateLimit,
    RateLimitExceeded,
    RateLimitMiddleware,
    Subject,
    get_caller,
)
from fleetlimit.core.policy import Match
from fleetlimit.core.quota import concurrency_quota
from fleetlimit.identity import ClientAddressResolver, RequestIdentifier
from support.limiter import rate_policy
from support.web import LimiterBench, caller, parse_limits

CHAT = rate_policy("chat", "2/minute")
SLOTS = Policy("slots", concurrency_quota(1, lease=30), key="global")


def make_app(bench: LimiterBench, *, middleware: bool) -> FastAPI:
    app = bench.install(FastAPI())
    if middleware:
        app.add_middleware(RateLimitMiddleware)
    return app


doors = pytest.mark.parametrize("middleware", [False, True], ids=["dependency", "middleware"])


@doors
def test_caller_is_verified_once_for_each_request(*, middleware: bool) -> None:
    """A resolver may be a query. A client that is not identified may be so after authentication."""
    bench = LimiterBench(rate_policy("all", "9/minute"), CHAT)
    verified: list[str] = []

    async def resolve(connection: HTTPConnection) -> Principal | None:
        name = connection.headers.get("x-caller")
        verified.append(name or "")
        return Principal(name) if name else None

    bench.http_limiter.identifier = RequestIdentifier(ClientAddressResolver(), resolver=resolve)
    app = make_app(bench, middleware=middleware)

    @app.get("/", dependencies=[Depends(RateLimit("9/minute"))])
    async def read(caller: DepCaller) -> str:
        await caller.check("chat")
        return str(caller.principal)

    client = TestClient(app)
    assert client.get("/", headers=caller("ann")).status_code == 200
    assert verified == ["ann"]
    assert client.get("/").json() == "None"
    assert verified == ["ann", "", ""]


@doors
def test_each_message_of_a_websocket_is_checked(*, middleware: bool) -> None:
    """A socket's third message of two is refused, and another caller's first one is not."""
    app = make_app(LimiterBench(CHAT), middleware=middleware)

    @app.websocket("/chat")
    async def chat(socket: WebSocket, caller: DepCaller) -> None:
        await socket.accept()
        async for text in socket.iter_text():
            try:
                await caller.check("chat")
            except RateLimitExceeded as error:
                await socket.send_text(f"wait {error.retry_after}")
            else:
                await socket.send_text(text)

    client = TestClient(app)
    with client.websocket_connect("/chat", headers=caller("ann")) as socket:
        replies = []
        for text in ("one", "two", "three"):
            socket.send_text(text)
            replies.append(socket.receive_text())
    assert replies == ["one", "two", "wait 30"]
    with client.websocket_connect("/chat", headers=caller("ann")) as socket:
        socket.send_text("another socket of the same caller")
        assert socket.receive_text() == "wait 30"
    with client.websocket_connect("/chat", headers=caller("bob")) as socket:
        socket.send_text("one")
        assert socket.receive_text() == "one"


@doors
def test_denied_message_that_no_code_catches_closes_the_socket(*, middleware: bool) -> None:
    """An exception that the endpoint does not catch closes the socket with 1013."""
    app = make_app(LimiterBench(CHAT), middleware=middleware)

    @app.websocket("/chat")
    async def chat(socket: WebSocket, caller: DepCaller) -> None:
        await socket.accept()
        async for _ in socket.iter_text():
            await caller.check("chat", cost=2)

    with TestClient(app).websocket_connect("/chat", headers=caller("ann")) as socket:
        socket.send_text("one")
        socket.send_text("two")
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_text()
    assert (closed.value.code, closed.value.reason) == (1013, "rate limited")


def test_check_before_the_handshake_is_accepted_rejects_it() -> None:
    """A check before `accept` answers the handshake with 429."""
    app = make_app(LimiterBench(CHAT), middleware=False)

    @app.websocket("/chat")
    async def chat(socket: WebSocket, caller: DepCaller) -> None:
        await caller.check("chat", cost=2)
        await socket.accept()
        await socket.close()

    client = TestClient(app)
    with client.websocket_connect("/chat", headers=caller("ann")):
        pass
    with (
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect("/chat", headers=caller("ann")),
    ):
        pass


@doors
def test_check_in_an_endpoint_answers_429_with_the_problem(*, middleware: bool) -> None:
    """An uncaught denial is the ready response; an admission states the limit's fields."""
    app = make_app(LimiterBench(CHAT), middleware=middleware)

    @app.get("/")
    async def index(caller: DepCaller) -> str:
        await caller.check("chat")
        return "ok"

    client = TestClient(app)
    ok = client.get("/", headers=caller("ann"))
    assert parse_limits(ok) == {"chat": {"q": 2, "w": 60, "r": 1, "t": 30}}
    client.get("/", headers=caller("ann"))
    denied = client.get("/", headers=caller("ann"))
    assert denied.status_code == 429
    assert denied.headers["Retry-After"] == "30"
    assert denied.headers["Content-Type"] == "application/problem+json"
    assert denied.json()["violated-policies"] == ["chat"]
    assert client.get("/", headers=caller("bob")).status_code == 200


@doors
def test_many_checks_of_one_request_state_the_last_one(*, middleware: bool) -> None:
    """The response states each policy once, and a request that checks a lot keeps no more."""
    bench = LimiterBench(rate_policy("chat", "99/minute"), rate_policy("other", "9/minute"))
    app = make_app(bench, middleware=middleware)

    @app.get("/", dependencies=[Depends(PolicyLimit("chat"))])
    async def index(caller: DepCaller) -> int:
        for _ in range(9):
            await caller.check("chat")
        reservation = await caller.reserve("other", cost=5)
        await reservation.commit(2)
        return len(caller._request_limits.reservations)

    response = TestClient(app).get("/", headers=caller("ann"))
    limits = parse_limits(response)
    assert (limits["chat"]["r"], limits["other"]["r"]) == (89, 7)
    assert response.json() == 3


def test_check_uses_the_route_and_headers_of_the_connection() -> None:
    """Keys are made from the connection, as those of a dependency."""
    policies = (
        rate_policy("tenant", "1/minute", key="header:X-Tenant"),
        rate_policy("route", "1/minute", key=("global", "route")),
        rate_policy("address", "1/minute", key="client_address"),
    )
    app = make_app(LimiterBench(*policies), middleware=False)

    @app.get("/{policy}")
    async def index(policy: str, caller: DepCaller) -> str:
        await caller.check(policy)
        return "ok"

    client = TestClient(app)
    statuses = [
        client.get(path, headers=headers).status_code
        for path, headers in [
            ("/tenant", {"x-tenant": "a"}),
            ("/tenant", {"x-tenant": "b"}),
            ("/tenant", {"x-tenant": "a"}),
            ("/route", {}),
            ("/route", {}),
            ("/address", {}),
            ("/address", {"x-caller": "ann"}),
        ]
    ]
    assert statuses == [200, 200, 429, 200, 429, 200, 429]


def test_keys_of_functions_and_path_parameters_are_resolved() -> None:
    """A key function and a path parameter have the connection's values; `key=` replaces them."""
    policies = (
        rate_policy("path", "1/minute", key="path:item"),
        rate_policy("function", "1/minute", key=_tenant),
    )
    app = make_app(LimiterBench(*policies), middleware=False)

    @app.get("/{item}")
    async def index(item: str, caller: DepCaller) -> str:
        await caller.check("path", "function")
        await caller.check("path", "function", key=f"body of {item}")
        return item

    client = TestClient(app)
    paths = ("/a?tenant=1", "/b?tenant=1", "/b?tenant=2", "/b?tenant=3")
    assert [client.get(each).status_code for each in paths] == [200, 429, 200, 429]


async def _tenant(connection: HTTPConnection) -> str:
    return connection.query_params["tenant"]


def test_app_answers_a_denied_check_in_its_own_format() -> None:
    """`on_rejected` also answers the denials of checks by hand."""

    async def on_rejected(_connection: Any, _decision: Any, _response: Any) -> Response:
        return PlainTextResponse("slow down", 420)

    limits = Fleetlimit(policies=PolicySet([CHAT]), on_rejected=on_rejected)
    app = FastAPI(lifespan=limits)

    @app.get("/")
    async def index(caller: DepCaller) -> str:
        await caller.check("chat", cost=2)
        return "ok"

    with TestClient(app) as client:
        client.get("/")
        denied = client.get("/")
    assert (denied.status_code, denied.text) == (420, "slow down")


def test_limits_and_exemptions_from_functions_apply() -> None:
    """A limit that a function returns, and an exemption, are those of the connection."""
    limit = RateLimit(lambda _: "3/minute", default="1/minute", name="own")
    free = Policy("free", "1/minute", exempt=lambda connection: "staff" in connection.headers)
    app = make_app(LimiterBench(), middleware=False)

    @app.get("/own")
    async def own(caller: DepCaller) -> str:
        await caller.check(limit)
        return "ok"

    @app.get("/free")
    async def exempt(caller: DepCaller) -> str:
        await caller.acquire(free, timeout=0)
        return "ok"

    client = TestClient(app)
    assert [client.get("/own").status_code for _ in range(4)] == [200, 200, 200, 429]
    assert [client.get("/free").status_code for _ in range(2)] == [200, 429]
    assert client.get("/free", headers={"staff": "yes"}).status_code == 200


def test_caller_is_described_and_can_be_another_one() -> None:
    """The caller's properties are those of its credential; `principal=` counts for another."""
    app = make_app(LimiterBench(CHAT), middleware=False)

    @app.get("/")
    async def index(caller: Annotated[Caller, Depends(get_caller)]) -> list[str]:
        await caller.check("chat", principal="room-1", cost=2)
        with pytest.raises(RateLimitExceeded):
            await caller.check("chat", principal="room-1", tier="free")
        await caller.check("chat")
        return [repr(caller.principal and caller.principal.name), caller.tier, repr(caller)[:17]]

    client = TestClient(app)
    assert client.get("/", headers=caller("ann/pro")).json() == [
        "'ann'",
        "pro",
        "Caller(principal=",
    ]


def test_caller_checks_for_a_subject_that_code_states() -> None:
    """`subject=` has all parts of a key; a tier belongs to a caller."""
    app = make_app(LimiterBench(CHAT), middleware=False)

    @app.get("/")
    async def index(caller: DepCaller) -> str:
        await caller.check("chat", subject=Subject(principal=Principal("bob")), cost=2)
        await caller.check("chat", cost=2)
        with pytest.raises(ConfigError, match="without a caller"):
            await caller.check("chat", tier="pro")
        return "ok"

    assert TestClient(app).get("/", headers=caller("ann")).status_code == 200


def test_anonymous_caller_is_checked_by_address() -> None:
    """Without a credential the caller is its address."""
    app = make_app(LimiterBench(CHAT), middleware=False)

    @app.get("/")
    async def index(caller: DepCaller) -> str:
        await caller.check("chat", cost=2)
        return f"{caller.principal} {caller.tier} {caller.client_address}"

    client = TestClient(app)
    assert client.get("/").json() == "None  testclient"
    assert client.get("/").status_code == 429


def test_invalid_credential_is_rejected_after_it_was_counted() -> None:
    """With `reject_invalid` a check raises 401, and guesses count against the address."""
    app = make_app(LimiterBench(CHAT, reject_invalid=True), middleware=False)

    @app.get("/")
    async def index(caller: DepCaller) -> str:
        await caller.check("chat")
        return "ok"

    client = TestClient(app)
    statuses = [client.get("/", headers=caller("invalid")).status_code for _ in range(3)]
    assert statuses == [401, 401, 429]


def test_cost_that_never_fits_is_413() -> None:
    """A cost above the limit is a rejection, and no error of the server."""
    app = make_app(LimiterBench(CHAT), middleware=False)

    @app.get("/")
    async def index(caller: DepCaller) -> str:
        await caller.check("chat", cost=3)
        return "ok"

    assert TestClient(app).get("/", headers=caller("ann")).status_code == 413


async def _cost(connection: HTTPConnection) -> int:
    return int(connection.query_params["cost"])


@pytest.mark.parametrize("cost", [lambda connection: len(connection.query_params["cost"]), _cost])
def test_limit_from_code_computes_its_cost_from_the_connection(cost: Any) -> None:
    """A limit with a cost function, plain or async, is checked as a dependency would."""
    limit = RateLimit("5/minute", cost=cost)
    app = make_app(LimiterBench(), middleware=False)

    @app.get("/")
    async def index(caller: DepCaller) -> str:
        decision = await caller.check(limit)
        status = decision.results[0].statuses[0]
        assert status is not None
        return str(status.remaining)

    client = TestClient(app)
    used = 5 - int(client.get("/?cost=3", headers=caller("ann")).json())
    assert used in {1, 3}


def test_concurrency_unit_is_held_within_the_block() -> None:
    """A concurrency limit needs `async with`; `check` says so."""
    bench = LimiterBench(SLOTS)
    app = make_app(bench, middleware=False)

    @app.get("/")
    async def index(caller: DepCaller) -> list[int]:
        with pytest.raises(ConfigError, match="async with"):
            await caller.check("slots")
        async with caller.reserve("slots"):
            during = await bench.in_flight("slots")
        return [during, await bench.in_flight("slots")]

    assert TestClient(app).get("/").json() == [1, 0]


def test_peek_and_reset_are_those_of_the_caller() -> None:
    """`peek` spends nothing, `reset` deletes the caller's buckets."""
    app = make_app(LimiterBench(CHAT), middleware=False)

    @app.get("/")
    async def index(caller: DepCaller) -> list[Any]:
        await caller.check("chat", cost=2)
        before = (await caller.peek("chat")).allowed
        count = await caller.reset("chat")
        return [before, count, (await caller.peek("chat")).allowed]

    assert TestClient(app).get("/", headers=caller("ann")).json() == [False, 1, True]


@doors
def test_limiter_is_injected(*, middleware: bool) -> None:
    """`DepLimiter` checks for a caller that code names, and its denial is the ready response."""
    app = make_app(LimiterBench(CHAT), middleware=middleware)

    @app.post("/orders/{customer}")
    async def order(customer: str, limits: DepLimiter) -> str:
        await limits.check("chat", principal=customer, cost=2)
        return "ok"

    client = TestClient(app)
    statuses = [client.post(f"/orders/{name}").status_code for name in ("a", "b", "a")]
    assert statuses == [200, 200, 429]
    assert client.post("/orders/a").json()["violated-policies"] == ["chat"]


@doors
def test_mounted_app_uses_the_limiter_around_it(*, middleware: bool) -> None:
    """In a mounted app the nearest limiter is used, and the route has the full template."""
    bench = LimiterBench(rate_policy("route", "1/minute", key="route"))
    outer, inner = FastAPI(), FastAPI()
    if middleware:
        outer.add_middleware(RateLimitMiddleware)

    @inner.get("/items/{item}")
    async def index(item: int, caller: DepCaller) -> int:
        await caller.check("route")
        return item

    outer.mount("/inner", inner)
    client = TestClient(bench.install(outer))
    assert [client.get(f"/inner/items/{n}").status_code for n in (1, 2)] == [200, 429]
    assert bench.routes[-1] == "GET /inner/items/{item}"


def test_app_that_never_mentions_fleetlimit_gets_the_default_limiter(
    opened: list[LimiterBench],
) -> None:
    """`DepCaller` alone opens the limiter of the environment, as a dependency does."""
    app = FastAPI()

    @app.get("/")
    async def index(caller: DepCaller) -> str:
        await caller.check(RateLimit("1/minute"))
        return "ok"

    client = TestClient(app)
    assert [client.get("/").status_code for _ in range(2)] == [200, 429]
    assert len(opened) == 1


Handler = Callable[[WebSocket, RateLimit], Awaitable[None]]


async def _by_hand(socket: WebSocket, limit: RateLimit) -> None:
    await limit(socket, Response())


async def _new_limit(socket: WebSocket, _limit: RateLimit) -> None:
    await RateLimit("5/minute")(socket, Response())


@doors
@pytest.mark.parametrize("declared", [False, True], ids=["undeclared", "declared"])
@pytest.mark.parametrize("call", [_by_hand, _new_limit])
def test_limit_called_for_each_message_is_an_error(
    call: Handler, *, declared: bool, middleware: bool
) -> None:
    """A limit counts once for each connection; a further call says to write `caller.check`."""
    limit = RateLimit("5/minute")
    app = make_app(LimiterBench(CHAT), middleware=middleware)
    dependencies = [Depends(limit)] if declared else []

    @app.websocket("/chat", dependencies=dependencies)
    async def chat(socket: WebSocket) -> None:
        await socket.accept()
        if not declared:
            await call(socket, limit)
        with pytest.raises(ConfigError, match=r"write `await caller.check\(...\)`"):
            await call(socket, limit)
        await socket.send_text("done")

    with TestClient(app).websocket_connect("/chat") as socket:
        assert socket.receive_text() == "done"


@doors
def test_limit_that_fastapi_calls_repeatedly_counts_once(*, middleware: bool) -> None:
    """A limit in several places of a route, even without FastAPI's cache, is no error."""
    limit = RateLimit("5/minute")
    bench = LimiterBench(rate_policy("all", "9/minute", match=Match()))
    app = make_app(bench, middleware=middleware)

    @app.get("/", dependencies=[Depends(limit), Depends(limit, use_cache=False)])
    async def index(_again: Any = Depends(limit, use_cache=False)) -> str:  # noqa: B008
        return "ok"

    response = TestClient(app).get("/")
    assert response.status_code == 200
    assert [each["r"] for name, each in parse_limits(response).items() if name != "all"] == [4]


def test_limit_called_twice_by_an_endpoint_is_an_error() -> None:
    """The same holds for HTTP, as for each step of a stream."""
    limit = RateLimit("5/minute")
    app = make_app(LimiterBench(), middleware=False)

    @app.get("/steps")
    async def steps(response: Response, caller: DepCaller) -> str:
        await limit(caller._connection, response)
        with pytest.raises(ConfigError, match="was called again"):
            await limit(caller._connection, response)
        return "ok"

    assert TestClient(app).get("/steps").status_code == 200
