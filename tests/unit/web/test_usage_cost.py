"""Costs that the answer of a large language model states: estimated, then corrected."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from fastapi import Depends, FastAPI, HTTPException, Request, WebSocket
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect
from starlette.testclient import TestClient
from starlette.types import Message

from fleetlimit import Fleetlimit
from fleetlimit.core.exemption import Exemption
from fleetlimit.core.policy import Match, Policy
from fleetlimit.core.policy_set import PolicySet
from fleetlimit.core.subject import Principal
from fleetlimit.core.usage import Usage
from fleetlimit.errors import ConfigError
from fleetlimit.limiter.events import Event, UsageUnread, UsageUnreadReason
from fleetlimit.web import usage_scanner
from fleetlimit.web.dependency import ConcurrencyLimit, PolicyLimit, RateLimit
from fleetlimit.web.middleware import RateLimitMiddleware
from support.web import (
    Exchange,
    LimiterBench,
    collect_messages,
    http_scope,
    parse_limits,
    websocket_scope,
)

PATH = "/v1/chat/completions"
ANSWER = {"choices": [], "usage": {"total_tokens": 30}}
JSON_HEADERS = [(b"content-type", b"application/json")]


def tokens_policy(**options: Any) -> Policy:
    """Return a policy of 1,000 tokens a minute for all callers."""
    options.setdefault("cost", Usage("openai", estimate=100))
    return Policy("tokens", "1000/minute", key="global", match=Match(routes=(PATH,)), **options)


class Bench(LimiterBench):
    """Limiter that keeps the answers that were not read."""

    def __init__(self, *policies: Policy) -> None:
        self.unread: list[UsageUnreadReason] = []
        super().__init__(*(policies or (tokens_policy(),)))

    def on_event(self, event: Event) -> None:
        """Keep the reason."""
        if isinstance(event, UsageUnread):
            self.unread.append(event.reason)

    @property
    def spent(self) -> int:
        """Tokens that are spent."""
        return asyncio.run(self.in_flight("tokens"))


def serve(bench: LimiterBench, endpoint: Any, **route: Any) -> FastAPI:
    """Return an app with the endpoint behind the middleware."""
    app = bench.install(FastAPI())
    app.post(PATH, **route)(endpoint)
    app.add_middleware(RateLimitMiddleware)
    return app


async def complete() -> JSONResponse:
    """Answer with 30 tokens."""
    return JSONResponse(ANSWER)


async def stream_of(events: Sequence[Any]) -> AsyncIterator[bytes]:
    """Yield events as server-sent ones."""
    for each in events:
        yield f"data: {json.dumps(each)}\n\n".encode()


def test_answer_corrects_the_estimate() -> None:
    """The estimate is spent before the endpoint runs, and the tokens of the answer after it."""
    bench = Bench()
    spent: list[int] = []

    async def endpoint() -> Any:
        spent.append(await bench.in_flight("tokens"))
        return ANSWER

    response = TestClient(serve(bench, endpoint)).post(PATH, json={"max_tokens": 400})
    assert response.json() == ANSWER
    assert spent == [400]
    assert parse_limits(response)["tokens"]["r"] == 600
    assert bench.spent == 30
    assert bench.unread == []


def test_answer_may_be_more_than_the_estimate() -> None:
    """Tokens beyond the estimate are spent as well, and later requests wait for them."""
    bench = Bench()

    async def endpoint() -> Any:
        return {"usage": {"prompt_tokens": 900, "completion_tokens": 95}}

    client = TestClient(serve(bench, endpoint))
    assert client.post(PATH, json={"max_tokens": 1}).status_code == 200
    assert bench.spent == 995
    assert client.post(PATH, json={"max_tokens": 6}).status_code == 429
    assert client.post(PATH, json={"max_tokens": 5}).status_code == 200


@pytest.mark.parametrize(
    ("body", "reserved"),
    [
        ({"max_tokens": 400}, 400),
        ({"max_completion_tokens": 300, "max_tokens": 200}, 300),
        ({"max_output_tokens": 50}, 50),
        ({"max_tokens": 40, "n": 3}, 120),
        ({"max_tokens": 40, "n": 129}, 40),
        ({"max_tokens": 40, "n": -3}, 40),
        ({"max_tokens": 5000}, 1000),
        ({"max_tokens": 10**30}, 1000),
        ({"max_tokens": 0}, 100),
        ({"max_tokens": -7}, 100),
        ({"max_tokens": 1.5}, 100),
        ({"max_tokens": True}, 100),
        ({"max_tokens": "400"}, 100),
        ({"max_tokens": None}, 100),
        ({}, 100),
        ([400], 100),
    ],
)
def test_estimate_is_the_maximum_that_the_request_states(body: Any, reserved: int) -> None:
    """Without a usable maximum the policy's estimate is reserved, and never more than it holds."""
    bench = Bench()
    seen: list[Any] = []

    async def endpoint(request: Request) -> Any:
        seen.append(await request.json())
        return Response("no JSON")

    TestClient(serve(bench, endpoint)).post(PATH, json=body)
    assert seen == [body]
    assert bench.spent == reserved


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"max_tokens": ' + b"9" * 5000 + b"}",
        b'{"max_tokens": NaN}',
        b'{"max_tokens": 400, "pad": "' + b"x" * 1_048_576 + b'"}',
    ],
)
def test_hostile_body_reaches_the_app_unchanged(body: bytes) -> None:
    """A body that cannot be read costs the estimate, and the app receives each byte of it."""
    bench = Bench()

    async def endpoint(request: Request) -> Any:
        assert await request.body() == body
        return Response("no JSON")

    app = serve(bench, endpoint)
    headers = {"content-type": "application/json"}
    assert TestClient(app).post(PATH, content=body, headers=headers).status_code == 200
    assert bench.spent == 100


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"content-type", b"text/plain")],
        [(b"content-type", b"multipart/form-data; boundary=x")],
        [*JSON_HEADERS, (b"content-encoding", b"gzip")],
        [*JSON_HEADERS, (b"content-length", b"2000000")],
        [*JSON_HEADERS, (b"content-length", b"-1")],
        [*JSON_HEADERS, (b"content-length", b"9" * 5000)],
    ],
)
async def test_other_bodies_are_not_read_ahead(headers: list[tuple[bytes, bytes]]) -> None:
    """An upload streams to the app as without a limit."""
    bench = Bench()
    order: list[str] = []

    async def endpoint(request: Request) -> Any:
        order.append("endpoint")
        order.extend([part.decode() async for part in request.stream()])
        return ANSWER

    app = serve(bench, endpoint)
    async with Exchange(
        app,
        http_scope(PATH, method="POST", headers=headers),
        {"type": "http.request", "body": b"one", "more_body": True},
        {"type": "http.request", "body": b"two", "more_body": False},
    ) as exchange:
        assert (await exchange.next())["status"] == 200
    assert [each for each in order if each] == ["endpoint", "one", "two"]


async def test_body_in_parts_is_replayed_in_parts() -> None:
    """The app receives the same messages, and the end of the connection after them."""
    bench = Bench()
    received: list[Message] = []

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        received.extend([await receive() for _ in range(4)])
        await send({"type": "http.response.start", "status": 200, "headers": JSON_HEADERS})
        await send({"type": "http.response.body", "body": json.dumps(ANSWER).encode()})

    outer = bench.install(FastAPI())
    outer.mount("/", app)
    outer.add_middleware(RateLimitMiddleware)
    bench.limiter.active_policies.replace(
        type(bench.limiter.active_policies.current)(
            [Policy("tokens", "1000/minute", key="global", cost=Usage("openai"), match=Match())]
        )
    )
    messages: list[Message] = [
        {"type": "http.request", "body": b'{"max_to', "more_body": True},
        {"type": "http.request", "body": b"", "more_body": True},
        {"type": "http.request", "body": b'kens": 7}', "more_body": False},
        {"type": "http.disconnect"},
    ]
    async with bench:
        scope = http_scope(PATH, method="POST", headers=JSON_HEADERS)
        await collect_messages(outer, scope, *messages)
        assert received == messages
        assert await bench.in_flight("tokens") == 30


async def test_client_that_disconnects_while_it_sends_costs_the_estimate() -> None:
    """The app sees the end of the connection, as without a limit."""
    bench = Bench()

    async def endpoint(request: Request) -> None:
        await request.body()

    app = serve(bench, endpoint)
    async with bench:
        scope = http_scope(PATH, method="POST", headers=JSON_HEADERS)
        part: Message = {"type": "http.request", "body": b"{", "more_body": True}
        with pytest.raises(ClientDisconnect):
            await collect_messages(app, scope, part, {"type": "http.disconnect"})
        assert await bench.in_flight("tokens") == 100


def test_event_stream_is_read_as_it_passes() -> None:
    """The last event states the tokens; each event is sent when the app sends it."""
    bench = Bench()
    events = [{"choices": [], "usage": None}, {"usage": {"total_tokens": 42}}, {"done": True}]

    async def endpoint() -> Any:
        return StreamingResponse(stream_of(events), media_type="text/event-stream")

    response = TestClient(serve(bench, endpoint)).post(PATH, json={})
    assert response.text.count("data: ") == 3
    assert (bench.spent, bench.unread) == (42, [])


async def test_stream_is_not_buffered() -> None:
    """An event reaches the client while the app still makes the next one."""
    bench = Bench()
    go_on = asyncio.Event()

    async def events() -> AsyncIterator[bytes]:
        yield b"data: {}\n\n"
        await go_on.wait()
        yield b'data: {"usage": {"total_tokens": 5}}\n\n'

    async def endpoint() -> Any:
        return StreamingResponse(events(), media_type="text/event-stream")

    app = serve(bench, endpoint)
    async with bench, Exchange(app, http_scope(PATH, method="POST")) as exchange:
        assert (await exchange.next())["type"] == "http.response.start"
        assert (await exchange.next())["body"] == b"data: {}\n\n"
        assert await bench.in_flight("tokens") == 100
        go_on.set()
        await exchange.end()
        assert await bench.in_flight("tokens") == 5


@pytest.mark.parametrize(
    ("start", "spent"),
    [
        ({"input_tokens": 25, "output_tokens": 1}, 100),
        ({"input_tokens": 250, "output_tokens": 1}, 251),
    ],
)
async def test_interrupted_stream_keeps_the_larger_number(start: Any, spent: int) -> None:
    """A client that disconnects has spent the estimate, or what was stated if that is more."""
    bench = Bench(tokens_policy(cost=Usage("anthropic", estimate=100)))

    async def events() -> AsyncIterator[bytes]:
        async for event in stream_of([{"type": "message_start", "message": {"usage": start}}]):
            yield event
        await asyncio.Event().wait()

    async def endpoint() -> Any:
        return StreamingResponse(events(), media_type="text/event-stream")

    app = serve(bench, endpoint)
    async with bench:
        async with Exchange(app, http_scope(PATH, method="POST")) as exchange:
            await exchange.next()
            await exchange.next()
        assert await bench.in_flight("tokens") == spent
        assert bench.unread == [UsageUnreadReason.INTERRUPTED]


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (JSONResponse({"choices": []}), UsageUnreadReason.MISSING),
        (Response(status_code=204), UsageUnreadReason.MEDIA_TYPE),
        (Response("text", media_type="text/plain"), UsageUnreadReason.MEDIA_TYPE),
        (
            Response(
                gzip.compress(json.dumps(ANSWER).encode()),
                media_type="application/json",
                headers={"Content-Encoding": "gzip"},
            ),
            UsageUnreadReason.ENCODED,
        ),
    ],
)
def test_answer_that_cannot_be_read_keeps_the_estimate(
    response: Response, reason: UsageUnreadReason
) -> None:
    """The estimate stays spent, and an event says why."""
    bench = Bench()

    async def endpoint() -> Response:
        return response

    TestClient(serve(bench, endpoint)).post(PATH, json={})
    assert (bench.spent, bench.unread) == (100, [reason])


def test_answer_that_is_too_large_keeps_the_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search for `usage` is bounded, and the answer reaches the client in full."""
    monkeypatch.setattr(usage_scanner, "MAX_TEXT_BYTES", 10)
    bench = Bench()
    response = TestClient(serve(bench, complete)).post(PATH, json={})
    assert response.json() == ANSWER
    assert (bench.spent, bench.unread) == (100, [UsageUnreadReason.TOO_LARGE])


def test_compression_outside_of_the_limiter_is_read() -> None:
    """An answer that is compressed after it has passed the limiter is read."""
    bench = Bench()
    app = serve(bench, complete)
    app.add_middleware(GZipMiddleware, minimum_size=1)
    response = TestClient(app).post(PATH, json={})
    assert response.headers["content-encoding"] == "gzip"
    assert (bench.spent, bench.unread) == (30, [])


@pytest.mark.parametrize("status", [400, 429, 500])
def test_error_costs_nothing(status: int) -> None:
    """A request without an answer of the model gets its estimate back."""
    bench = Bench()

    async def endpoint() -> None:
        raise HTTPException(status)

    assert TestClient(serve(bench, endpoint)).post(PATH, json={}).status_code == status
    assert (bench.spent, bench.unread) == (0, [])


def test_exception_costs_nothing() -> None:
    """An unhandled exception is an error with status 500."""
    bench = Bench()

    async def endpoint() -> None:
        raise RuntimeError

    client = TestClient(serve(bench, endpoint), raise_server_exceptions=False)
    assert client.post(PATH, json={}).status_code == 500
    assert bench.spent == 0


def test_count_decides_what_an_error_costs() -> None:
    """With `count` an error that counts keeps its estimate, or costs what its answer states."""
    bench = Bench(tokens_policy(count=["2xx", 500]))

    async def endpoint(status: int) -> Any:
        return JSONResponse(ANSWER if status == 500 else {}, status)

    client = TestClient(serve(bench, endpoint))
    client.post(f"{PATH}?status=400", json={})
    assert bench.spent == 0
    client.post(f"{PATH}?status=500", json={})
    assert bench.spent == 30
    client.post(f"{PATH}?status=200", json={})
    assert bench.spent == 130


def test_several_policies_read_one_answer() -> None:
    """Tokens of the caller, tokens of all, and requests are decided together."""
    everybody = Policy(
        "all", "500/minute", key="global", match=Match(routes=(PATH,)), cost=Usage("openai")
    )
    requests = Policy("requests", "5/minute", key="global", match=Match())
    bench = Bench(tokens_policy(), everybody, requests)
    client = TestClient(serve(bench, complete))
    left = {name: each["r"] for name, each in parse_limits(client.post(PATH, json={})).items()}
    assert left == {"tokens": 900, "all": 0, "requests": 4}
    assert bench.spent == 30
    assert asyncio.run(bench.in_flight("all")) == 30
    assert asyncio.run(bench.in_flight("requests")) == 1


def test_dependency_reads_the_answer() -> None:
    """A limit in code states its cost by `Usage`, beside a limit of requests."""
    bench = Bench()
    limits = [
        RateLimit("1000/minute", key="global", name="code", cost=Usage("openai", estimate=9)),
        RateLimit("5/minute", key="global", name="requests"),
    ]
    app = bench.install(FastAPI())
    app.post("/chat", dependencies=[Depends(each) for each in limits])(complete)
    app.add_middleware(RateLimitMiddleware)
    client = TestClient(app)
    assert parse_limits(client.post("/chat"))["code"]["r"] == 991
    assert parse_limits(client.post("/chat", json={"max_tokens": 70}))["code"]["r"] == 900
    assert repr(limits[0]).startswith("RateLimit('1000/minute', cost=Usage('openai', estimate=9), ")


@pytest.mark.parametrize(
    ("cost", "spent"), [(None, 30), (5, 5), (Usage("anthropic", estimate=8), 8)]
)
def test_policy_limit_has_the_cost_of_its_policy(cost: Any, spent: int) -> None:
    """A dependency takes the cost of the policy unless it states one."""
    policy = Policy("tokens", "1000/minute", key="global", cost=Usage("openai"))
    bench = Bench(policy)
    dependency = Depends(PolicyLimit("tokens", cost=cost))
    TestClient(serve(bench, complete, dependencies=[dependency])).post(PATH, json={})
    assert bench.spent == spent


def test_usage_without_the_middleware_is_an_error() -> None:
    """A dependency alone would keep every estimate."""
    bench = Bench()
    app = bench.install(FastAPI())
    limit = RateLimit("1000/minute", cost=Usage("openai"))
    app.post(PATH, dependencies=[Depends(limit)])(complete)
    with pytest.raises(ConfigError, match=r"app.add_middleware\(RateLimitMiddleware\)"):
        TestClient(app).post(PATH, json={})


def test_usage_of_a_concurrency_limit_is_an_error() -> None:
    """A lease has no tokens."""
    with pytest.raises(ConfigError, match="concurrency"):
        ConcurrencyLimit(4, cost=Usage("openai"))


def test_policy_of_websockets_alone_has_no_answer() -> None:
    """A WebSocket has no answer that could state its tokens."""
    match = Match(methods=frozenset({"WEBSOCKET"}))
    with pytest.raises(ConfigError, match="WebSocket has none"):
        Policy("tokens", "1000/minute", cost=Usage("openai"), match=match)


async def test_handshake_under_a_usage_policy_costs_the_estimate() -> None:
    """A policy of all methods takes the estimate of a handshake, and says so."""
    bench = Bench(tokens_policy())
    app = bench.install(FastAPI())

    @app.websocket(PATH)
    async def room(socket: WebSocket) -> None:
        await socket.accept()
        await socket.close()

    app.add_middleware(RateLimitMiddleware)
    async with bench:
        scope = websocket_scope(PATH, extension=True)
        await collect_messages(app, scope, {"type": "websocket.connect"})
        assert await bench.in_flight("tokens") == 100
        assert bench.unread == [UsageUnreadReason.MEDIA_TYPE]


def test_caller_of_a_smaller_tier_reserves_what_its_limit_holds() -> None:
    """The estimate is bounded by the limits of the caller's tier."""
    policy = tokens_policy(cost=Usage("openai"))
    small = Policy(
        "tokens",
        key="global",
        match=policy.match,
        tiers={"free": "50/minute", "pro": "1000/minute"},
        cost=Usage("openai"),
    )
    bench = Bench(small)
    client = TestClient(serve(bench, complete))
    response = client.post(PATH, json={"max_tokens": 400}, headers={"x-caller": "ann/free"})
    assert (response.status_code, parse_limits(response)["tokens"]["r"]) == (200, 0)
    response = client.post(PATH, json={"max_tokens": 400}, headers={"x-caller": "bob/pro"})
    assert response.status_code == 200


@pytest.mark.parametrize(
    "exempt", [Exemption(tiers=["staff"]), lambda _connection: True], ids=["tiers", "function"]
)
@pytest.mark.parametrize("options", [{}, {"count": "2xx"}])
def test_exempt_request_costs_no_tokens(exempt: Any, options: Any) -> None:
    """An exempt caller spends nothing, and its answer is not searched for tokens."""
    bench = Bench(tokens_policy(exempt=exempt, **options))

    async def endpoint() -> Any:
        return Response("no JSON")

    client = TestClient(serve(bench, endpoint))
    headers = {"x-caller": "ann/staff"}
    assert client.post(PATH, json={"max_tokens": 9}, headers=headers).status_code == 200
    assert (bench.spent, bench.unread) == (0, [])


@pytest.mark.parametrize("mode", ["off", "shadow"])
def test_modes_of_a_usage_policy(mode: Any) -> None:
    """A policy that is off reads nothing, and one in shadow mode counts the tokens."""
    bench = Bench(tokens_policy(mode=mode))
    client = TestClient(serve(bench, complete, dependencies=[Depends(PolicyLimit("tokens"))]))
    for _ in range(3):
        assert client.post(PATH, json={"max_tokens": 100}).status_code == 200
    assert bench.unread == []
    if mode == "shadow":
        assert bench.spent == 90


def test_own_limits_of_a_caller_bound_its_estimate() -> None:
    """A caller with a smaller limit than others reserves all of it, and is not refused."""
    bench = Bench()
    limit = RateLimit(
        lambda _: "50/minute", default="1000/minute", cost=Usage("openai"), name="own"
    )
    app = bench.install(FastAPI())
    app.post("/chat", dependencies=[Depends(limit)])(complete)
    app.add_middleware(RateLimitMiddleware)
    response = TestClient(app).post("/chat", json={"max_tokens": 400})
    assert (response.status_code, parse_limits(response)["own"]["r"]) == (200, 0)


def test_limits_of_a_provider_bound_the_estimate() -> None:
    """A provider's limit for a caller is known only to the check itself."""

    async def limits(_principal: Principal, policy: str) -> str | None:
        return "50/minute" if policy == "tokens" else None

    async def resolve(_request: Any) -> Principal:
        return Principal("ann")

    fleetlimit = Fleetlimit(policies=PolicySet([tokens_policy()]), resolver=resolve, limits=limits)
    app = FastAPI(lifespan=fleetlimit)
    app.post(PATH)(complete)
    app.add_middleware(RateLimitMiddleware)
    with TestClient(app) as client:
        response = client.post(PATH, json={"max_tokens": 400})
        assert (response.status_code, parse_limits(response)["tokens"]["r"]) == (200, 0)
        left = parse_limits(client.post(PATH, json={"max_tokens": 1}))["tokens"]["r"]
    # The first answer took 30 of 50, and the second estimate is 1.
    assert 19 <= left <= 21
