"""Limits that count by the status of the response: decided before, settled after."""

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, WebSocket
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from fleetlimit.core.policy import Match, Policy
from fleetlimit.errors import ConfigError
from fleetlimit.limiter.reservation import Reservation
from fleetlimit.web.dependency import PolicyLimit, RateLimit
from fleetlimit.web.middleware import RateLimitMiddleware
from support.eventually import eventually_async
from support.web import (
    Exchange,
    LimiterBench,
    caller,
    collect_messages,
    http_scope,
    parse_limits,
    websocket_scope,
)

LOGIN = Policy("login", "3/minute", key="global", count="failure", match=Match(routes=("/login",)))
CONNECT: Message = {"type": "websocket.connect"}
AppFactory = Callable[[LimiterBench], FastAPI]


class OwnError(Exception):
    """Exception that the app has a handler for."""


async def answer(status: int) -> Any:
    """Answer with a status, in the way that its number stands for."""
    if status == 500:
        raise RuntimeError("a defect of the endpoint")
    if status == 418:
        raise OwnError
    if status == 401:
        raise HTTPException(status)
    return JSONResponse({}, status)


def by_middleware(bench: LimiterBench) -> FastAPI:
    """Return an app whose policy matches the route."""
    app = bench.install(FastAPI())
    app.get("/login")(answer)
    app.add_middleware(RateLimitMiddleware)
    return with_handler(app)


def by_dependency(bench: LimiterBench) -> FastAPI:
    """Return an app whose route has the limit, beside the middleware."""
    app = bench.install(FastAPI())
    limit = RateLimit("3/minute", key="global", name="login", count="failure")
    app.get("/login", dependencies=[Depends(limit)])(answer)
    app.add_middleware(RateLimitMiddleware)
    return with_handler(app)


def with_handler(app: FastAPI) -> FastAPI:
    """Return the app with a handler for `OwnError`."""

    @app.exception_handler(OwnError)
    async def handle(_request: Any, _error: Any) -> JSONResponse:
        return JSONResponse({}, 403)

    return app


both_doors = pytest.mark.parametrize(
    ("make_app", "policies"), [(by_middleware, (LOGIN,)), (by_dependency, ())]
)


@both_doors
def test_count_failures_only(make_app: AppFactory, policies: tuple[Policy, ...]) -> None:
    """Successes cost nothing; the fourth attempt after three failures is refused unseen."""
    bench = LimiterBench(*policies)
    client = TestClient(make_app(bench), raise_server_exceptions=False)

    def left(status: int) -> int:
        return parse_limits(client.get(f"/login?status={status}"))["login"]["r"]

    assert [left(status) for status in (200, 204, 302, 200)] == [3, 3, 3, 3]
    assert [left(401), left(200), left(418)] == [2, 2, 1]
    # An unhandled exception is answered by the server outside of the middleware.
    assert client.get("/login?status=500").status_code == 500
    refused = client.get("/login?status=200")
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) >= 1


@both_doors
def test_count_by_status_is_shared_by_successes_of_one_second(
    make_app: AppFactory, policies: tuple[Policy, ...]
) -> None:
    """Any number of successes is admitted, one after the other."""
    client = TestClient(make_app(LimiterBench(*policies)))
    assert {client.get("/login?status=200").status_code for _ in range(20)} == {200}


def test_count_of_a_list_of_statuses() -> None:
    """Statuses and classes of a list count, and an exception counts as 500."""
    policy = Policy("a", "3/minute", key="global", count=[403, "5xx"], match=Match())
    bench = LimiterBench(policy)
    client = TestClient(by_middleware(bench), raise_server_exceptions=False)
    for status in (401, 404, 200, 429):
        client.get(f"/login?status={status}")
    assert asyncio.run(bench.in_flight("a")) == 0
    client.get("/login?status=403")
    client.get("/login?status=500")
    client.get("/login?status=503")
    assert asyncio.run(bench.in_flight("a")) == 3
    assert client.get("/login?status=200").status_code == 429


def test_exception_is_refunded_where_500_does_not_count() -> None:
    """A defect of the app is not the caller's failure."""
    bench = LimiterBench(Policy("a", "3/minute", key="global", count=[401], match=Match()))
    client = TestClient(by_middleware(bench), raise_server_exceptions=False)
    assert client.get("/login?status=500").status_code == 500
    assert asyncio.run(bench.in_flight("a")) == 0


async def test_concurrent_attempts_never_exceed_the_limit() -> None:
    """Each attempt is spent before the endpoint runs, so no more than the limit run at once."""
    bench = LimiterBench(LOGIN)
    running = asyncio.Semaphore(0)
    entered: list[int] = []
    app = bench.install(FastAPI())

    @app.get("/login")
    async def login(number: int) -> Any:
        entered.append(number)
        await running.acquire()
        return JSONResponse({}, 401)

    app.add_middleware(RateLimitMiddleware)
    transport = httpx2.ASGITransport(app)
    async with bench, httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        attempts = [
            asyncio.ensure_future(client.get(f"/login?number={number}")) for number in range(8)
        ]
        await eventually_async(
            lambda: len(entered) + sum(each.done() for each in attempts) == len(attempts)
        )
        assert len(entered) == 3
        for _ in entered:
            running.release()
        statuses = [(await each).status_code for each in attempts]
        assert sorted(statuses) == [401] * 3 + [429] * 5


async def test_client_that_disconnects_before_the_status_is_counted() -> None:
    """An attempt whose outcome is not known counts."""
    bench = LimiterBench(LOGIN)
    entered = asyncio.Event()
    app = bench.install(FastAPI())

    @app.get("/login")
    async def login() -> None:
        entered.set()
        await asyncio.Event().wait()

    app.add_middleware(RateLimitMiddleware)
    async with bench:
        async with Exchange(app, http_scope("/login")):
            await entered.wait()
        assert await bench.in_flight("login") == 1


async def test_app_without_a_response_is_counted() -> None:
    """An app that returns without an answer is no success."""

    async def silent(_scope: Scope, _receive: Receive, _send: Send) -> None: ...

    bench = LimiterBench(Policy("a", "3/minute", key="global", count="failure", match=Match()))
    app = bench.install(FastAPI())
    app.mount("/silent", silent)
    app.add_middleware(RateLimitMiddleware)
    async with bench:
        assert await collect_messages(app, http_scope("/silent/x")) == []
        assert await bench.in_flight("a") == 1


def test_stream_is_settled_when_it_starts() -> None:
    """The status is known before the body, and a stream that fails keeps its status."""
    bench = LimiterBench(LOGIN)
    app = bench.install(FastAPI())

    @app.get("/login")
    async def login() -> StreamingResponse:
        async def parts() -> Any:
            yield b"one"
            raise RuntimeError("in the middle")

        return StreamingResponse(parts())

    app.add_middleware(RateLimitMiddleware)
    client = TestClient(app, raise_server_exceptions=False)
    client.get("/login")
    assert asyncio.run(bench.in_flight("login")) == 0


def test_refund_while_the_store_is_unavailable_does_not_fail_the_response() -> None:
    """Without the store the cost stays spent, and the response is sent."""
    bench = LimiterBench(LOGIN)
    app = bench.install(FastAPI())

    @app.get("/login")
    async def login() -> None:
        bench.store.unavailable = True

    app.add_middleware(RateLimitMiddleware)
    assert TestClient(app).get("/login").status_code == 200
    bench.store.unavailable = False
    assert asyncio.run(bench.in_flight("login")) == 1


def test_counted_policy_beside_an_ordinary_one() -> None:
    """A success gives back what it cost under `login`, and nothing of `all`."""
    everything = Policy("all", "9/minute", key="global", match=Match())
    bench = LimiterBench(LOGIN, everything)
    client = TestClient(by_middleware(bench))
    left = parse_limits(client.get("/login?status=200"))
    assert (left["login"]["r"], left["all"]["r"]) == (3, 8)


def test_policy_limit_counts_as_its_policy_says() -> None:
    """`count` of a policy applies to the routes that name it, at their cost."""
    bench = LimiterBench(Policy("login", "9/minute", count="failure"))
    app = bench.install(FastAPI())
    app.get("/login", dependencies=[Depends(PolicyLimit("login", cost=2))])(answer)
    app.add_middleware(RateLimitMiddleware)
    client = TestClient(app)
    assert parse_limits(client.get("/login?status=200"))["login"]["r"] == 9
    assert parse_limits(client.get("/login?status=403"))["login"]["r"] == 7


def test_endpoint_that_corrects_the_cost_itself_wins() -> None:
    """Only the first correction has an effect."""
    bench = LimiterBench()
    app = bench.install(FastAPI())
    limit = RateLimit("9/minute", name="a", count="failure", cost=5)

    @app.get("/")
    async def endpoint(reservation: Annotated[Reservation, Depends(limit)]) -> None:
        await reservation.commit(2)

    app.add_middleware(RateLimitMiddleware)
    assert parse_limits(TestClient(app).get("/"))["a"]["r"] == 7


def test_rejected_credential_is_a_failure() -> None:
    """A 401 of the middleware itself counts like one of the app."""
    bench = LimiterBench(LOGIN, reject_invalid=True)
    client = TestClient(by_middleware(bench))
    statuses = [
        client.get("/login?status=200", headers=caller("invalid")).status_code for _ in range(4)
    ]
    assert statuses == [401, 401, 401, 429]


@pytest.mark.parametrize(("count", "spent"), [([401], 1), ([403], 0), ([418], 1)])
def test_own_answer_to_a_rejected_credential_counts_by_its_status(
    count: list[int], spent: int
) -> None:
    """A response of `on_rejected` is what the client receives, so its status counts."""
    policy = Policy("a", "9/minute", key="global", count=count, match=Match())
    bench = LimiterBench(policy, reject_invalid=True)
    app = bench.install(FastAPI())
    app.get("/login")(answer)

    def on_rejected(_connection: Any, _decision: Any, response: Any) -> Any:
        return JSONResponse({}, 418) if count == [418] else response

    app.add_middleware(RateLimitMiddleware, on_rejected=on_rejected)
    TestClient(app).get("/login?status=200", headers=caller("invalid"))
    assert asyncio.run(bench.in_flight("a")) == spent


async def test_messages_before_the_response_have_no_status() -> None:
    """A message of an ASGI extension is passed on."""

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.debug", "info": {}})
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    bench = LimiterBench(Policy("a", "3/minute", key="global", count="failure", match=Match()))
    outer = bench.install(FastAPI())
    outer.mount("/inner", app)
    outer.add_middleware(RateLimitMiddleware)
    async with bench:
        sent = await collect_messages(outer, http_scope("/inner/x"))
        assert sent[0]["type"] == "http.response.debug"
        assert await bench.in_flight("a") == 0


@pytest.mark.parametrize("mode", ["shadow", "off"])
def test_modes_of_a_counted_policy(mode: Any) -> None:
    """A policy in shadow mode counts failures and rejects nothing."""
    policy = Policy("a", "1/minute", key="global", count="failure", match=Match(), mode=mode)
    bench = LimiterBench(policy)
    client = TestClient(by_middleware(bench))
    statuses = [client.get(f"/login?status={each}").status_code for each in (200, 403, 403, 200)]
    assert statuses == [200, 403, 403, 200]


async def handshakes(bench: LimiterBench, app: FastAPI, *, extension: bool) -> int:
    """Make a handshake, and return the units in use afterwards."""
    scope = websocket_scope("/ws", extension=extension)
    gone: Message = {"type": "websocket.disconnect", "code": 1001}
    await collect_messages(app, scope, CONNECT, gone)
    return await bench.in_flight("ws")


@pytest.mark.parametrize("extension", [True, False])
async def test_handshakes_count_by_their_status(*, extension: bool) -> None:
    """An accepted handshake has the status 101, and one that is closed before has 403."""
    policy = Policy(
        "ws", "9/minute", key="global", count="failure", match=Match(frozenset({"WEBSOCKET"}))
    )
    bench = LimiterBench(policy)
    accept = True
    app = bench.install(FastAPI())

    @app.websocket("/ws")
    async def room(socket: WebSocket) -> None:
        if accept:
            await socket.accept()
        elif extension:
            raise HTTPException(403)
        await socket.close(4001)

    app.add_middleware(RateLimitMiddleware)
    async with bench:
        assert await handshakes(bench, app, extension=extension) == 0
        accept = False
        assert await handshakes(bench, app, extension=extension) == 1


def test_dependency_without_the_middleware_is_an_error() -> None:
    """A status that no middleware sees would never be settled."""
    bench = LimiterBench()
    app = bench.install(FastAPI())
    limit = RateLimit("3/minute", key="global", name="login", count="failure")
    app.get("/login", dependencies=[Depends(limit)])(answer)
    with pytest.raises(ConfigError, match=r"write app.add_middleware\(RateLimitMiddleware\)"):
        TestClient(app).get("/login?status=200")
    assert bench.store.acquire_calls == 0


def test_limit_in_a_mounted_app_is_settled_by_the_middleware_around_it() -> None:
    """The middleware of the outer app sees the responses of mounted apps."""
    bench = LimiterBench()
    inner, outer = FastAPI(), FastAPI()
    limit = RateLimit("3/minute", key="global", name="login", count="failure")
    router = APIRouter(dependencies=[Depends(limit)])
    router.get("/login")(answer)
    inner.include_router(router)
    outer.mount("/inner", inner)
    outer.add_middleware(RateLimitMiddleware)
    client = TestClient(bench.install(outer))
    assert parse_limits(client.get("/inner/login?status=200"))["login"]["r"] == 3
    assert parse_limits(client.get("/inner/login?status=403"))["login"]["r"] == 2


def test_limits_of_other_counts_have_other_names() -> None:
    """A route may limit its failures and all its requests."""
    bench = LimiterBench()
    app = bench.install(FastAPI())
    limits = [RateLimit("3/minute", count="failure"), RateLimit("3/minute")]
    app.get("/login", dependencies=[Depends(each) for each in limits])(answer)
    app.add_middleware(RateLimitMiddleware)
    client = TestClient(app)
    client.get("/login?status=200")
    left = parse_limits(client.get("/login?status=403"))
    assert {name: each["r"] for name, each in left.items()} == {
        "3/60s-count-failure": 2,
        "3/60s": 1,
    }
    assert repr(limits[0]) == "RateLimit('3/minute', count='failure')"


@pytest.mark.parametrize("count", ["failures", [], 99, None])
def test_limit_rejects_what_is_no_status(count: Any) -> None:
    """A misspelt word would count nothing."""
    with pytest.raises(ConfigError, match="write"):
        RateLimit("3/minute", count=count)
