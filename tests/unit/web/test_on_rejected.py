"""Rejections in the app's own format: by `on_rejected`, behind both doors, for every cause."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from fastapi import Depends, FastAPI, Request, WebSocket
from httpx2 import Response as ClientResponse
from starlette.background import BackgroundTask
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import HTTPConnection
from starlette.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.testclient import TestClient

from fleetlimit import (
    Decision,
    Fleetlimit,
    OnRejected,
    PolicySet,
    ProblemResponse,
    RateLimit,
    RateLimitMiddleware,
    RejectionCause,
)
from fleetlimit.core.policy import Match, OnStoreError
from fleetlimit.errors import ConfigError
from fleetlimit.web.dependency import PolicyLimit
from fleetlimit.web.rejections import RejectionSender
from support.doors import CONNECT, GONE, ONE, both_doors, by_middleware, items
from support.limiter import rate_policy
from support.web import (
    LimiterBench,
    assert_each_once,
    caller,
    collect_messages,
    parse_limits,
    websocket_scope,
)

AppFactory = Callable[[LimiterBench], FastAPI]


def bench_with(on_rejected: Any, *, handlers: bool = False, **options: Any) -> LimiterBench:
    """Return a bench of one request a minute, whose rejections a function answers."""
    bench = LimiterBench(options.pop("policy", ONE), **options)
    bench.http_limiter.rejection_sender = RejectionSender(
        on_rejected, use_exception_handlers=handlers
    )
    return bench


def rejected(app: FastAPI, **headers: str) -> ClientResponse:
    """Return the response to the second request."""
    client = TestClient(app)
    assert client.get("/items").status_code == 200
    response = client.get("/items", headers=headers, follow_redirects=False)
    assert_each_once(response.headers)
    return response


def change_problem(
    connection: HTTPConnection, decision: Decision | None, response: ProblemResponse
) -> None:
    assert decision is not None
    assert isinstance(connection, Request)
    response.problem["path"] = connection.url.path
    response.problem["policies"] = list(decision.denied_by)
    response.headers["X-Own"] = "1"


async def change_problem_async(
    connection: HTTPConnection, decision: Decision | None, response: ProblemResponse
) -> None:
    await asyncio.sleep(0)
    change_problem(connection, decision, response)


class Callback:
    """An object with an async `__call__`."""

    async def __call__(self, *arguments: Any) -> None:
        """Change the problem."""
        change_problem(*arguments)


@both_doors
@pytest.mark.parametrize("function", [change_problem, change_problem_async, Callback()])
def test_ready_response_can_be_changed(make_app: AppFactory, function: OnRejected) -> None:
    """The function changes the problem and the headers; every limit header stays."""
    response = rejected(make_app(bench_with(function)))
    assert response.status_code == 429
    assert response.json()["path"] == "/items"
    assert response.json()["policies"] == ["default"]
    assert response.json()["violated-policies"] == ["default"]
    assert response.headers["X-Own"] == "1"
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["Retry-After"] == "60"
    assert response.headers["Cache-Control"] == "no-store"
    assert parse_limits(response)["default"]["r"] == 0


@both_doors
@pytest.mark.parametrize("kind", [JSONResponse, PlainTextResponse])
def test_response_can_be_replaced(make_app: AppFactory, kind: type[Response]) -> None:
    """Another response gets the headers that it lacks, and keeps its own."""

    def replace(*_: object) -> Response:
        return kind("slow down", 420, headers={"Cache-Control": "max-age=1"})

    response = rejected(make_app(bench_with(replace)))
    assert (response.status_code, "slow down" in response.text) == (420, True)
    assert response.headers["Cache-Control"] == "max-age=1"
    assert response.headers["Retry-After"] == "60"
    assert parse_limits(response)["default"]["r"] == 0
    assert "problem" not in response.headers["Content-Type"]


@both_doors
def test_shared_response_is_not_modified(make_app: AppFactory) -> None:
    """A response that the app makes once has the current limits each time."""
    shared = JSONResponse({"error": "slow down"}, 429)
    bench = bench_with(lambda *_: shared)
    client = TestClient(make_app(bench))
    client.get("/items")
    assert client.get("/items").headers["Retry-After"] == "60"
    bench.clock.advance(20)
    assert client.get("/items").headers["Retry-After"] == "40"
    assert "retry-after" not in shared.headers


@both_doors
@pytest.mark.parametrize("is_replaced", [True, False])
def test_deleted_headers_are_not_added(make_app: AppFactory, *, is_replaced: bool) -> None:
    """A header that the function deletes from the ready response is not sent."""

    def delete(_: object, __: object, response: ProblemResponse) -> Response | None:
        for name in ("Retry-After", "RateLimit", "RateLimit-Policy"):
            del response.headers[name]
        return PlainTextResponse("no", 429) if is_replaced else None

    response = rejected(make_app(bench_with(delete)))
    assert not {"retry-after", "ratelimit", "ratelimit-policy"} & set(response.headers)
    assert response.headers["Cache-Control"] == "no-store"


@both_doors
def test_status_of_the_problem_follows_the_response(make_app: AppFactory) -> None:
    """A changed status is that of the problem, too (RFC 9457, section 3.1.2)."""

    def change(_: object, __: object, response: ProblemResponse) -> None:
        response.status_code = 403

    response = rejected(make_app(bench_with(change)))
    assert (response.status_code, response.json()["status"]) == (403, 403)


@both_doors
@pytest.mark.parametrize("status", [204, 205, 304])
def test_status_without_a_body_has_none(make_app: AppFactory, status: int) -> None:
    """A server would not send a body with these statuses."""

    def change(_: object, __: object, response: ProblemResponse) -> None:
        response.status_code = status

    response = rejected(make_app(bench_with(change)))
    assert (response.status_code, response.content) == (status, b"")
    assert not {"content-type", "content-length"} & set(response.headers)
    assert response.headers["Retry-After"] == "60"


@both_doors
def test_body_of_the_ready_response_can_be_set(make_app: AppFactory) -> None:
    """A body that the function sets is sent with its own length."""

    def change(_: object, __: object, response: ProblemResponse) -> None:
        response.body = b"<p>slow down</p>"
        response.headers["Content-Type"] = "text/html"

    response = rejected(make_app(bench_with(change)))
    assert response.text == "<p>slow down</p>"
    assert response.headers["Content-Length"] == "16"


@both_doors
def test_other_kinds_of_responses(make_app: AppFactory) -> None:
    """Redirects, streams and background tasks work as in an endpoint."""
    ran: list[str] = []

    async def stream() -> AsyncIterator[bytes]:
        for part in (b"slow ", b"down"):
            yield part

    kinds: list[tuple[Response, int, str]] = [
        (RedirectResponse("/plans", 303), 303, ""),
        (StreamingResponse(stream(), 429), 429, "slow down"),
        (PlainTextResponse("x", 429, background=BackgroundTask(ran.append, "ran")), 429, "x"),
        (Response(status_code=204), 204, ""),
    ]
    for own, status, text in kinds:
        response = rejected(make_app(bench_with(lambda *_, own=own: own)))
        assert (response.status_code, response.text) == (status, text)
        assert response.headers["Retry-After"] == "60"
    assert ran == ["ran"]


async def never(*_: object) -> None:
    await asyncio.Event().wait()


def raising(_: object, __: object, response: ProblemResponse) -> None:
    response.status_code = 200
    response.headers["X-Half"] = "changed"
    raise RuntimeError("the app's mistake")


def unserializable(_: object, __: object, response: ProblemResponse) -> None:
    response.problem["when"] = object()


def sets_body_to_a_mapping(_: object, __: object, response: ProblemResponse) -> None:
    response.body = {"error": "slow down"}  # type: ignore[assignment]  # the mistake


FAILING: list[tuple[OnRejected, str]] = [
    (raising, "RuntimeError: the app's mistake"),
    (never, "TimeoutError: the on_rejected function did not return within 0.01 s"),
    (lambda *_: {"error": "x"}, "TypeError: on_rejected returned dict: return a Response or None"),  # type: ignore[list-item]  # the mistake
    (lambda *_: JSONResponse, "TypeError: on_rejected returned type: return a Response"),  # type: ignore[list-item]  # the mistake
    (lambda *_: Response(status_code=99), "ValueError: 99 is not a status: write one from 200"),
    (lambda *_: FileResponse("/no/such/file"), "RuntimeError: File at path /no/such/file"),
    (unserializable, "TypeError: Object of type object is not JSON serializable"),
    (sets_body_to_a_mapping, "TypeError: response.body is of type dict: write bytes"),
]


@both_doors
@pytest.mark.parametrize(("function", "message"), FAILING)
def test_failure_is_logged_and_the_ready_response_is_sent(
    make_app: AppFactory, function: OnRejected, message: str, log: pytest.LogCaptureFixture
) -> None:
    """Whatever the function does wrong, the client gets the ready response, unchanged."""
    bench = bench_with(function)
    bench.http_limiter.function_timeout_s = 0.01
    response = rejected(make_app(bench))
    assert response.status_code == 429
    assert response.json()["status"] == 429
    assert "X-Half" not in response.headers
    assert response.headers["Retry-After"] == "60"
    assert parse_limits(response)["default"]["r"] == 0
    assert [each.message for each in log.records] == ["rejection.failed"]
    assert message in (log.records[0].exc_text or log.text)


@both_doors
def test_every_cause_reaches_the_function(make_app: AppFactory) -> None:
    """429, 503, 401 and 413 can be changed; the decision is None if there was none."""
    seen: list[tuple[str, int, bool]] = []

    def note(_: object, decision: Decision | None, response: ProblemResponse) -> None:
        seen.append((response.cause, response.status_code, decision is not None))
        response.problem["own"] = True

    bench = bench_with(
        note,
        policy=rate_policy("default", "3/minute", match=Match(), on_store_error=OnStoreError.DENY),
        reject_invalid=True,
    )
    app = make_app(bench)

    @app.get("/costly", dependencies=[Depends(RateLimit("5/minute", cost=lambda _: 9))])
    async def costly() -> None: ...

    client = TestClient(app)
    responses = [client.get("/items", headers=caller("invalid")), client.get("/costly")]
    client.get("/items")
    client.get("/items")
    responses.append(client.get("/items"))
    bench.store.unavailable = True
    responses.append(client.get("/items", headers=caller("alice")))
    assert [each.status_code for each in responses] == [401, 413, 429, 503]
    assert all(each.json()["own"] for each in responses)
    assert responses[0].headers["WWW-Authenticate"] == "Custom"
    assert seen == [
        (RejectionCause.CREDENTIAL_INVALID, 401, True),
        (RejectionCause.COST, 413, False),
        (RejectionCause.LIMIT, 429, True),
        (RejectionCause.LIMIT, 503, True),
    ]


@pytest.mark.parametrize("cors_outside", [True, False])
@both_doors
def test_cors_headers_stay(make_app: AppFactory, *, cors_outside: bool) -> None:
    """A browser can read the app's own rejection, and its limit headers."""
    app = FastAPI()
    if not cors_outside:
        app.add_middleware(CORSMiddleware, allow_origins=["*"], expose_headers=["X-Mine"])
    inner = make_app(bench_with(lambda *_: PlainTextResponse("no", 429)))
    app.router.routes.extend(inner.router.routes)
    app.user_middleware[:0] = inner.user_middleware
    if cors_outside:
        app.add_middleware(CORSMiddleware, allow_origins=["*"], expose_headers=["X-Mine"])
    LimiterBench.install(bench := bench_with(lambda *_: PlainTextResponse("no", 429)), app)
    assert bench.http_limiter.rejection_sender.is_needed
    response = rejected(app, Origin="https://shop.example")
    assert response.text == "no"
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert "X-Mine" in response.headers["Access-Control-Expose-Headers"]
    if inner.user_middleware and not cors_outside:
        assert "Retry-After" in response.headers["Access-Control-Expose-Headers"]


@both_doors
@pytest.mark.parametrize("extension", [True, False])
async def test_websocket_rejection_can_be_changed(make_app: AppFactory, *, extension: bool) -> None:
    """A handshake gets the changed response, or the changed close code and reason."""

    def change(connection: HTTPConnection, _: object, response: ProblemResponse) -> None:
        response.problem["path"] = connection.url.path
        response.close_code, response.close_reason = 4029, "slow down"

    app = make_app(bench_with(change))
    await collect_messages(app, websocket_scope("/ws", extension=extension), CONNECT, GONE)
    sent = await collect_messages(app, websocket_scope("/ws", extension=extension), CONNECT, GONE)
    if not extension:
        assert sent == [{"type": "websocket.close", "code": 4029, "reason": "slow down"}]
        return
    start, body = sent
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 429)
    assert dict(start["headers"])[b"retry-after"] == b"60"
    assert body["type"] == "websocket.http.response.body"
    assert json.loads(body["body"])["path"] == "/ws"


async def streamed() -> AsyncIterator[bytes]:
    yield b"slow "
    yield b"down"


@both_doors
@pytest.mark.parametrize(
    "make_response",
    [
        lambda: PlainTextResponse("slow down", 420),
        lambda: StreamingResponse(streamed(), 420),
    ],
)
async def test_websocket_rejection_can_be_replaced(
    make_app: AppFactory, make_response: Callable[[], Response]
) -> None:
    """Any response can answer a handshake."""
    app = make_app(bench_with(lambda *_: make_response()))
    await collect_messages(app, websocket_scope("/ws", extension=True), CONNECT, GONE)
    start, *bodies = await collect_messages(
        app, websocket_scope("/ws", extension=True), CONNECT, GONE
    )
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 420)
    assert b"".join(each["body"] for each in bodies) == b"slow down"
    assert dict(start["headers"])[b"retry-after"] == b"60"


@both_doors
@pytest.mark.parametrize(
    ("code", "reason"), [(1006, "x"), ("4000", "x"), (4000, "é" * 62), (999, "x"), (4000, None)]
)
async def test_wrong_close_code_is_logged(
    make_app: AppFactory, code: Any, reason: Any, log: pytest.LogCaptureFixture
) -> None:
    """A close frame that no server can send is replaced by the ready one."""

    def change(_: object, __: object, response: ProblemResponse) -> None:
        response.close_code, response.close_reason = code, reason

    app = make_app(bench_with(change))
    for _ in range(2):
        sent = await collect_messages(app, websocket_scope("/ws", extension=False), CONNECT, GONE)
    assert sent == [{"type": "websocket.close", "code": 1013, "reason": "rate limited"}]
    assert "rejection.failed" in log.text


@both_doors
@pytest.mark.parametrize("extension", [True, False])
async def test_failure_at_a_websocket_sends_the_ready_rejection(
    make_app: AppFactory, log: pytest.LogCaptureFixture, *, extension: bool
) -> None:
    """After an error, the handshake is answered as without the function."""
    app = make_app(bench_with(raising))
    for _ in range(2):
        sent = await collect_messages(
            app, websocket_scope("/ws", extension=extension), CONNECT, GONE
        )
    assert sent[0].get("status") == (429 if extension else None)
    assert sent[0].get("code") == (None if extension else 1013)
    assert "rejection.failed" in log.text


async def test_accepted_websocket_is_closed_with_the_changed_code() -> None:
    """A limit that the endpoint checks after `accept` closes the connection."""
    limit = RateLimit("1/minute", name="sockets")

    def change(_: object, __: object, response: ProblemResponse) -> None:
        response.close_code = 4429

    app = bench_with(change).install(FastAPI())

    async def accept(socket: WebSocket) -> None:
        await socket.accept()

    app.websocket("/ws", dependencies=[Depends(accept), Depends(limit)])(items)
    for _ in range(2):
        sent = await collect_messages(app, websocket_scope("/ws", extension=True), CONNECT, GONE)
    assert [each["type"] for each in sent] == ["websocket.accept", "websocket.close"]
    assert sent[1]["code"] == 4429


async def test_disconnected_client_is_not_answered() -> None:
    """The function is not called for a client that has gone."""
    called: list[object] = []
    app = by_middleware(bench_with(lambda *each: called.append(each)))
    await collect_messages(app, websocket_scope("/ws", extension=True), CONNECT, GONE)
    assert await collect_messages(app, websocket_scope("/ws", extension=True), GONE) == []
    assert called == []


def test_middleware_takes_precedence_over_the_limiter() -> None:
    """The middleware's function answers, in the mounted app's routes and dependencies too."""
    bench = bench_with(lambda *_: PlainTextResponse("limiter", 429))
    app, inner = bench.install(FastAPI()), FastAPI()
    inner.get("/items", dependencies=[Depends(RateLimit("1/minute"))])(items)

    @app.get("/called")
    async def called(request: Request) -> None:
        await RateLimit("1/minute", name="called")(request, Response())

    app.mount("/sub", inner)
    app.add_middleware(
        RateLimitMiddleware, on_rejected=lambda *_: PlainTextResponse("middleware", 429)
    )
    bench.limiter.active_policies.replace(PolicySet())
    client = TestClient(app)
    assert client.get("/sub/items").status_code == 200
    assert client.get("/sub/items").text == "middleware"
    assert client.get("/called").status_code == 200
    assert client.get("/called").text == "middleware"


def test_mounted_app_with_its_own_limiter_answers_itself() -> None:
    """The function of the outer middleware does not answer for another limiter."""
    inner, outer = FastAPI(), FastAPI()
    inner.get("/items", dependencies=[Depends(RateLimit("1/minute"))])(items)
    bench_with(lambda *_: PlainTextResponse("inner", 429)).install(inner)
    outer.mount("/sub", inner)
    bench = bench_with(None, policy=rate_policy("default", "9/minute", match=Match()))
    bench.install(outer)
    outer.add_middleware(
        RateLimitMiddleware, on_rejected=lambda *_: PlainTextResponse("outer", 429)
    )
    client = TestClient(outer)
    client.get("/sub/items")
    assert client.get("/sub/items").text == "inner"


def test_fleetlimit_has_the_function() -> None:
    """`Fleetlimit(on_rejected=...)` answers behind both doors."""
    for door in ("middleware", "dependency"):
        fleetlimit = Fleetlimit(
            policies=PolicySet([ONE]), on_rejected=lambda *_: PlainTextResponse("own", 429)
        )
        app = FastAPI(lifespan=fleetlimit)
        limits = [Depends(PolicyLimit("default"))] if door == "dependency" else []
        app.get("/items", dependencies=limits)(items)
        if door == "middleware":
            app.add_middleware(RateLimitMiddleware)
        with TestClient(app) as client:
            client.get("/items")
            assert client.get("/items").text == "own"


class Class:
    """A class, whose call makes an object."""

    def __init__(self, *_: object) -> None: ...


def generator(*_: object) -> Any:
    yield


async def async_generator(*_: object) -> Any:
    yield


def returns_text(_: object, __: object, ___: object) -> str:
    return ""


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("x", "is not a function: write `def on_rejected"),
        (JSONResponse({}), "is not a function: write `def on_rejected"),
        (Class, "is not a function: write `def on_rejected"),
        (lambda: None, "cannot be called with 3 arguments: write `def on_rejected"),
        (lambda _: None, "cannot be called with 3 arguments"),
        (generator, "is a generator: write `return` in place of `yield`"),
        (async_generator, "is a generator"),
        (returns_text, "returns <class 'str'>: return a Response or None"),
    ],
)
def test_wrong_function_is_an_error_at_construction(function: Any, message: str) -> None:
    """What cannot answer a rejection is refused before anything is started."""
    with pytest.raises(ConfigError, match=message):
        Fleetlimit(on_rejected=function)
    with pytest.raises(ConfigError, match=message):
        RateLimitMiddleware(FastAPI(), on_rejected=function)


def test_flag_that_is_no_truth_value_is_an_error() -> None:
    """A text would be true, whatever it says."""
    with pytest.raises(ConfigError, match="is not a truth value: write True or False"):
        Fleetlimit(use_exception_handlers="no")  # type: ignore[arg-type]  # the mistake
    with pytest.raises(ConfigError, match="is not a truth value: write True or False"):
        RateLimitMiddleware(FastAPI(), use_exception_handlers="no")  # type: ignore[arg-type]  # the mistake
