"""Keys from functions and path parameters: one behaviour of middleware and dependency."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from fastapi import Depends, FastAPI, Request, WebSocket
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.routing import Host, Mount, Route
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from fleetlimit import ConfigError, Fleetlimit, Match, Policy, PolicySet
from fleetlimit.web.dependency import ConcurrencyLimit, PolicyLimit, RateLimit
from fleetlimit.web.exceptions import RequestRejected
from fleetlimit.web.middleware import RateLimitMiddleware
from fleetlimit.web.request_values import MAX_KEY_CHARS
from support.web import LimiterBench

both_doors = pytest.mark.parametrize("middleware", [True, False])


def tenant(connection: HTTPConnection) -> str:
    """Return the tenant that a header names."""
    return connection.headers.get("x-tenant", "")


async def async_tenant(connection: HTTPConnection) -> str:
    """Return the same from an async function."""
    await asyncio.sleep(0)
    return tenant(connection)


class TenantKey:
    """Object that can be called."""

    async def __call__(self, connection: HTTPConnection) -> str:
        """Return the tenant."""
        return tenant(connection)


def client_of(
    *limits: Any, middleware: bool, path: str = "/a", bench: LimiterBench | None = None
) -> TestClient:
    """Return a client of an app with one limited route."""
    app = FastAPI()
    app.get(path, dependencies=[Depends(each) for each in limits])(lambda: None)
    if middleware:
        app.add_middleware(RateLimitMiddleware)
    bench = bench or LimiterBench()
    return TestClient(bench.install(app), raise_server_exceptions=False)


def statuses(client: TestClient, *tenants: str) -> list[int]:
    """Return the status of a request of each tenant."""
    return [client.get("/a", headers={"x-tenant": each}).status_code for each in tenants]


@both_doors
@pytest.mark.parametrize(
    "key", [tenant, async_tenant, TenantKey(), lambda connection: connection.headers["x-tenant"]]
)
def test_key_function_has_a_bucket_for_each_result(*, key: Any, middleware: bool) -> None:
    """A plain function, an async one, an object and a lambda each key the buckets."""
    client = client_of(RateLimit("1/minute", key=key), middleware=middleware)
    assert statuses(client, "a", "a", "b", "b", "a") == [200, 429, 200, 429, 429]


@both_doors
def test_key_function_in_a_sequence(*, middleware: bool) -> None:
    """A sequence makes one bucket for each combination."""
    limit = RateLimit("1/minute", key=[tenant, "header:x-caller"])
    client = client_of(limit, middleware=middleware)
    found = [
        client.get("/a", headers={"x-tenant": one, "x-caller": caller}).status_code
        for one, caller in (("a", "x"), ("a", "y"), ("b", "x"), ("a", "x"))
    ]
    assert found == [200, 200, 200, 429]


def test_key_function_of_a_concurrency_limit_and_a_websocket() -> None:
    """A handshake is keyed as a request is."""
    app = FastAPI()

    @app.websocket("/ws", dependencies=[Depends(RateLimit("1/minute", key=async_tenant))])
    async def chat(socket: WebSocket) -> None:
        await socket.accept()
        await socket.close()

    app.get("/held", dependencies=[Depends(ConcurrencyLimit(1, key=tenant))])(lambda: None)
    client = TestClient(LimiterBench().install(app))
    with client.websocket_connect("/ws", headers={"x-tenant": "a"}):
        pass
    with (
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect("/ws", headers={"x-tenant": "a"}),
    ):
        pass
    with client.websocket_connect("/ws", headers={"x-tenant": "b"}):
        pass
    assert [client.get("/held").status_code for _ in range(2)] == [200, 200]


def _raising(error: BaseException) -> Callable[[HTTPConnection], str]:
    def key(_connection: HTTPConnection) -> str:
        raise error

    return key


async def _never(_connection: HTTPConnection) -> str:
    await asyncio.Event().wait()
    raise AssertionError


async def _none(_connection: HTTPConnection) -> Any:
    return None


@both_doors
@pytest.mark.parametrize(
    ("key", "message"),
    [
        (lambda _connection: None, "returned None: return str"),
        (_none, "returned None: return str"),
        (lambda _connection: b"tenant", "returned bytes: return str"),
        (lambda _connection: 7, "returned int: return str"),
        (lambda _connection: "x" * (MAX_KEY_CHARS + 1), "returned 65,537 characters"),
        (_raising(RuntimeError("no directory")), "no directory"),
        (_never, "did not return within 0 s"),
    ],
)
def test_key_function_without_a_key_is_an_error(
    *, key: Any, message: str, middleware: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The request fails, does not reach the endpoint, and the log has the reason."""
    bench = LimiterBench()
    bench.http_limiter.function_timeout_s = 0
    client = client_of(RateLimit("9/minute", key=key), middleware=middleware, bench=bench)
    assert statuses(client, "a") == [500]
    assert "key.failed" in caplog.text
    assert message in caplog.text


@both_doors
def test_long_key_and_lone_surrogate_are_hashed(*, middleware: bool) -> None:
    """Any text up to the bound is a key."""
    texts = iter(["x" * MAX_KEY_CHARS, "\ud800", "\0", "", ""])
    client = client_of(
        RateLimit("1/minute", key=lambda _connection: next(texts)), middleware=middleware
    )
    assert statuses(client, *"abcde") == [200, 200, 200, 200, 429]


async def _generator(_connection: HTTPConnection) -> Any:
    yield "a"


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (TenantKey, "is a class: write an object of it, or a function"),
        (_generator, "is a generator: write `return`"),
        (lambda: "a", "cannot be called with one argument: write `def key"),
        (5, "5 is not a key: write principal"),
        (b"principal", "is not a key: write principal"),
        ("path:", "'path:' is not a key: write principal"),
        ("function:x", "is not a key: write principal"),
        ([], "an empty key"),
    ],
)
def test_wrong_key_is_an_error_where_it_is_written(key: Any, message: str) -> None:
    """The message says what to write."""
    with pytest.raises(ConfigError, match=message):
        RateLimit("1/minute", key=key)


def _returns_int(_connection: HTTPConnection) -> int:
    return 1


def test_annotation_of_a_key_function_is_checked() -> None:
    """A function that promises no text is an error; one that may return None is not."""

    def maybe(_connection: HTTPConnection) -> str | None:
        return None

    with pytest.raises(ConfigError, match="return str"):
        RateLimit("1/minute", key=_returns_int)  # type: ignore[arg-type,unused-ignore]  # the mistake
    RateLimit("1/minute", key=maybe)


def test_same_lambda_on_two_routes_is_one_limit_with_buckets_of_each_route() -> None:
    """Two lambdas of one text have one name; lambdas of different texts have different names."""
    app = FastAPI()
    for path in ("/a", "/b"):
        limit = RateLimit("1/minute", key=lambda connection: connection.headers["x-tenant"])
        app.get(path, dependencies=[Depends(limit)])(lambda: None)
    other = RateLimit("1/minute", key=lambda connection: connection.headers["x-other"])
    app.get("/c", dependencies=[Depends(other)])(lambda: None)
    app.router.lifespan_context = Fleetlimit()
    headers = {"x-tenant": "t", "x-other": "o"}
    with TestClient(app) as client:
        found = [client.get(path, headers=headers).status_code for path in ("/a", "/b", "/c", "/a")]
    assert found == [200, 200, 200, 429]


def by_header(name: str) -> Callable[[HTTPConnection], str]:
    """Return a key function with a closure."""
    return lambda connection: connection.headers.get(name, "")


def test_functions_of_one_factory_are_told_apart() -> None:
    """The closure and the arguments of a partial are part of the name."""
    limits = [
        RateLimit("1/minute", key=by_header("a")),
        RateLimit("1/minute", key=by_header("b")),
        RateLimit("1/minute", key=partial(_named, "a")),
        RateLimit("1/minute", key=partial(_named, "b")),
    ]
    bench = LimiterBench()
    names = [each.resolve_policy(bench.http_limiter).name for each in limits]
    assert len(set(names)) == len(names)
    again = RateLimit("1/minute", key=by_header("a")).resolve_policy(bench.http_limiter)
    assert again == limits[0].resolve_policy(bench.http_limiter)


def _named(name: str, connection: HTTPConnection) -> str:
    return connection.headers.get(name, "")


@both_doors
def test_key_function_is_called_once_for_several_limits(*, middleware: bool) -> None:
    """Limits of one route with the same function share its result."""
    calls = []

    def key(_connection: HTTPConnection) -> str:
        calls.append(1)
        return "a"

    limits = [RateLimit("1/minute", key=key), RateLimit("9/hour", key=key)]
    client = client_of(*limits, middleware=middleware)
    assert statuses(client, "a") == [200]
    assert len(calls) == 1


def test_key_function_of_a_limit_that_is_off_is_not_called() -> None:
    """A limit without effect cannot fail a request."""
    limit = RateLimit("1/minute", key=_raising(RuntimeError()), mode="off")
    assert statuses(client_of(limit, middleware=False), "a") == [200]


def test_key_function_reads_the_state_that_an_earlier_dependency_set() -> None:
    """A value of the body is a key: a dependency before the limit has parsed it."""

    async def parse(request: Request) -> None:
        request.state.username = (await request.json())["username"]

    app = FastAPI()
    limit = RateLimit("1/minute", key=lambda connection: connection.state.username)
    app.post("/login", dependencies=[Depends(parse), Depends(limit)])(lambda: None)
    client = TestClient(LimiterBench().install(app))
    names = ("ann", "ann", "bob")
    found = [client.post("/login", json={"username": each}).status_code for each in names]
    assert found == [200, 429, 200]


async def test_check_with_a_key_uses_the_buckets_of_the_key_function() -> None:
    """`key=` stands for the function's result, and a check without it is an error."""
    policy = Policy("login", "2/minute", key=tenant, match=Match())
    bench = LimiterBench(policy)
    app = FastAPI()
    app.get("/a", dependencies=[Depends(PolicyLimit("login"))])(lambda: None)
    client = TestClient(bench.install(app))
    assert statuses(client, "ann") == [200]
    assert (await bench.limiter.check("login", key="ann")).allowed
    assert not (await bench.limiter.check("login", key="ann")).allowed
    assert not (await bench.limiter.peek("login", key="ann")).allowed
    assert (await bench.limiter.check("login", key="bob")).allowed
    with pytest.raises(ConfigError, match=r"keyed on the function .*tenant .* write key="):
        await bench.limiter.check("login", principal="ann")
    with pytest.raises(ConfigError, match="key=7 is not text"):
        await bench.limiter.check("login", key=7)  # type: ignore[arg-type]  # the mistake
    assert await bench.limiter.reset("login", key="ann") == 1
    assert (await bench.limiter.check("login", key="ann")).allowed


async def test_check_with_a_key_replaces_the_key_of_a_policy_without_such_a_part() -> None:
    """Each key has a bucket of its own, apart from those of callers."""
    policy = Policy("sms", "1/minute", match=Match())
    several = Policy("both", "1/minute", key=["header:a", "path:b"], match=Match())
    bench = LimiterBench(policy, several)
    assert (await bench.limiter.check("sms", key="+1", principal="ann")).allowed
    assert (await bench.limiter.check("sms", key="+2", principal="ann")).allowed
    assert not (await bench.limiter.check("sms", key="+1", principal="bob")).allowed
    assert (await bench.limiter.check("sms", principal="ann")).allowed
    with pytest.raises(ConfigError, match="keyed on header:a and path:b"):
        await bench.limiter.check("both", key="+1")


def paths(client: TestClient, *requested: str) -> list[int]:
    """Return the status of a request of each path."""
    return [client.get(each).status_code for each in requested]


@both_doors
def test_path_parameter_has_a_bucket_for_each_value(*, middleware: bool) -> None:
    """The value is the decoded one that the route matched."""
    limit = RateLimit("1/minute", key="path:tenant_id")
    client = client_of(limit, middleware=middleware, path="/tenants/{tenant_id}/exports")
    found = paths(
        client,
        "/tenants/a/exports",
        "/tenants/%61/exports",
        "/tenants/a%20b/exports",
        "/tenants/a+b/exports",
        "/tenants/b/exports",
    )
    assert found == [200, 429, 200, 200, 200]


@both_doors
@pytest.mark.parametrize(
    ("template", "kind", "first", "same", "other"),
    [
        ("/i/{item:int}", int, "/i/7", "/i/007", "/i/8"),
        ("/i/{item}", int, "/i/7", "/i/+7", "/i/8"),
        ("/i/{item:float}", float, "/i/1.5", "/i/01.50", "/i/2.5"),
        ("/i/{item}", UUID, f"/i/{UUID(int=10)}", f"/i/{UUID(int=10).hex.upper()}", "/i/x"),
        ("/i/{item:path}", str, "/i/a/b", "/i/a%2Fb", "/i/a/c"),
        ("/i/{item}", bool, "/i/1", "/i/true", "/i/0"),
    ],
)
def test_spellings_of_one_value_share_a_bucket(
    *, template: str, kind: Any, first: str, same: str, other: str, middleware: bool
) -> None:
    """A client gains nothing from another spelling of the same value."""
    app = FastAPI()

    def endpoint(item: Any) -> None:
        assert isinstance(item, kind)

    endpoint.__annotations__["item"] = kind
    limit = RateLimit("1/minute", key="path:item")
    app.get(template, dependencies=[Depends(limit)])(endpoint)
    if middleware:
        app.add_middleware(RateLimitMiddleware)
    client = TestClient(LimiterBench().install(app))
    assert paths(client, first, same) == [200, 429]
    assert client.get(other).status_code in {200, 422}


@both_doors
@pytest.mark.parametrize("root", ["", "/proxy"])
def test_path_parameter_of_mounts_and_hosts(*, root: str, middleware: bool) -> None:
    """Parameters of a mount and of a host count, and an inner one of the same name is the value."""
    inner, app = FastAPI(), FastAPI()
    inner.get("/{item}", dependencies=[Depends(RateLimit("1/minute", key="path:tenant"))])(
        lambda: None
    )
    same = FastAPI()
    same.get("/{tenant}", dependencies=[Depends(RateLimit("1/minute", key="path:tenant"))])(
        lambda: None
    )
    app.mount("/t/{tenant}", inner)
    app.mount("/s/{tenant}", same)
    app.router.routes.append(Host("{tenant}.example.org", app=inner))
    if middleware:
        app.add_middleware(RateLimitMiddleware)
    client = TestClient(LimiterBench().install(app), root_path=root)
    assert paths(client, f"{root}/t/a/1", f"{root}/t/a/2", f"{root}/t/b/1") == [200, 429, 200]
    assert paths(client, f"{root}/s/a/x", f"{root}/s/b/x", f"{root}/s/a/y") == [200, 429, 200]
    hosts = ("a.example.org", "A.example.org:80", "b.example.org")
    found = [client.get(f"{root}/1", headers={"host": each}).status_code for each in hosts]
    assert found == [200, 429, 200]


def test_policy_with_a_path_parameter_applies_by_the_middleware() -> None:
    """The parameter keys a matched policy; paths without a route share the caller's bucket."""
    policy = Policy("tenants", "1/minute", key="path:tenant", match=Match(routes=("/t/*",)))
    inner = Starlette(routes=[Route("/{tenant}/x", _answer)])
    app = Starlette(routes=[Mount("/t", inner)])
    app.add_middleware(RateLimitMiddleware)
    bench = LimiterBench(policy)
    client = TestClient(bench.install(app))  # type: ignore[arg-type]  # an app of Starlette has no more
    assert paths(client, "/t/a/x", "/t/a/x", "/t/b/x") == [200, 429, 200]
    assert paths(client, "/t/missing/a", "/t/missing/b") == [404, 429]


async def _answer(_request: Request) -> Response:
    return Response()


@pytest.mark.parametrize("policy_file", [True, False])
def test_path_parameter_that_a_route_lacks_is_an_error_at_start(*, policy_file: bool) -> None:
    """The error names the parameter and the route."""
    app = FastAPI()
    keyed = RateLimit("1/minute", key="path:tenant")
    app.get("/a/{item}", dependencies=[] if policy_file else [Depends(keyed)])(lambda: None)
    app.add_middleware(RateLimitMiddleware)
    policy = Policy("tenants", "1/minute", key="path:tenant", match=Match(routes=("/a/*",)))
    policies = PolicySet([policy] if policy_file else [])
    app.router.lifespan_context = Fleetlimit(policies=policies)
    with (
        pytest.raises(ConfigError, match=r"path:tenant, which GET /a/{item} does not have"),
        TestClient(app),
    ):
        pass


def test_path_parameter_that_a_route_lacks_fails_requests_of_an_app_without_a_start() -> None:
    """An app that uses dependencies alone has no start."""
    client = client_of(RateLimit("1/minute", key="path:tenant"), middleware=False)
    assert statuses(client, "a") == [500]


def test_path_parameter_that_an_exact_route_of_a_policy_lacks() -> None:
    """A template says by itself that it has no such parameter."""
    with pytest.raises(ConfigError, match=r"path:tenant, which /a/{item} does not have"):
        Policy("p", "1/minute", key="path:tenant", match=Match(routes=("/a/{item}",)))


def test_wrong_key_function_of_a_policy_is_an_error_of_fleetlimit() -> None:
    """A policy in code is checked when the limiter is made."""
    wrong: Any = lambda: "a"  # noqa: E731 - the mistake
    policy = Policy("p", "1/minute", key=wrong, match=Match())
    with pytest.raises(ConfigError, match="cannot be called with one argument"):
        Fleetlimit(policies=PolicySet([policy]))


def test_rejection_of_a_keyed_limit_has_no_key_in_it() -> None:
    """The name of the limit has no value of a request."""
    client = client_of(RateLimit("1/minute", key="path:t"), middleware=False, path="/{t}")
    client.get("/secret")
    rejected = client.get("/secret")
    assert rejected.status_code == 429
    assert "secret" not in rejected.text + str(rejected.headers)
    assert issubclass(RequestRejected, Exception)
