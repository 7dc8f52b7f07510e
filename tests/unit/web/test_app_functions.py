"""Functions of the app for keys, costs and exemptions receive the connection."""

from collections import Counter

import pytest
from fastapi import Depends, FastAPI, Request, WebSocket
from fastapi.testclient import TestClient
from starlette.requests import HTTPConnection

from fleetlimit.testing import FleetlimitFactory
from fleetlimit.web.dependency import RateLimit
from fleetlimit.web.middleware import RateLimitMiddleware
from fleetlimit.web.usage_router import usage_router


@pytest.mark.parametrize("middleware", [False, True])
def test_functions_receive_a_request_or_the_connection_of_a_websocket(
    make_fleetlimit: FleetlimitFactory, *, middleware: bool
) -> None:
    """Each function may read the method of a request, and gets an `HTTPConnection` otherwise."""
    received: list[HTTPConnection] = []

    def key(connection: HTTPConnection) -> str:
        received.append(connection)
        return connection.headers.get("x-tenant", "none")

    async def cost(request: Request) -> int:
        received.append(request)
        return 1

    def exempt(request: Request) -> bool:
        received.append(request)
        return isinstance(request, Request) and request.method == "DELETE"

    def own_limit(request: Request) -> str:
        received.append(request)
        return "2/minute"

    limit = Depends(
        RateLimit(own_limit, default="9/minute", key=key, cost=cost, exempt=exempt, name="shared")
    )
    app = FastAPI(lifespan=make_fleetlimit())
    if middleware:
        app.add_middleware(RateLimitMiddleware)

    @app.get("/", dependencies=[limit])
    @app.delete("/", dependencies=[limit])
    async def read() -> None: ...

    @app.websocket("/socket", dependencies=[limit])
    async def accept(socket: WebSocket) -> None:
        await socket.accept()

    with TestClient(app) as client:
        assert [client.get("/").status_code for _ in range(3)] == [200, 200, 429]
        assert {client.delete("/").status_code for _ in range(5)} == {200}
        assert received
        assert {type(each) for each in received} == {Request}
        received.clear()
        with client.websocket_connect("/socket", headers={"x-tenant": "a"}):
            pass
        assert received
        assert {type(each) for each in received} == {HTTPConnection}


@pytest.mark.parametrize("middleware", [False, True])
def test_function_of_several_limits_is_called_once_for_each_request(
    make_fleetlimit: FleetlimitFactory, *, middleware: bool
) -> None:
    """Each function may be a query of a database; `/usage` calls those that it needs once, too."""
    calls: Counter[str] = Counter()

    def key(_connection: HTTPConnection) -> str:
        calls["key"] += 1
        return "a"

    async def cost(_connection: HTTPConnection) -> int:
        calls["cost"] += 1
        return 1

    def exempt(_connection: HTTPConnection) -> bool:
        calls["exempt"] += 1
        return False

    def own_limit(_connection: HTTPConnection) -> str:
        calls["own_limit"] += 1
        return "9/minute"

    app = FastAPI(lifespan=make_fleetlimit())
    if middleware:
        app.add_middleware(RateLimitMiddleware)
    limits = [
        Depends(RateLimit(own_limit, default=f"{number}/hour", key=key, cost=cost, exempt=exempt))
        for number in (1, 2)
    ]
    for path in ("/a", "/b"):
        app.get(path, dependencies=limits)(lambda: None)
    app.include_router(usage_router())
    with TestClient(app) as client:
        assert client.get("/a").status_code == 200
        assert calls == {"key": 1, "cost": 1, "exempt": 1, "own_limit": 1}
        calls.clear()
        found = client.get("/usage").json()["limits"]
        assert [each["remaining"] for each in found] == [8, 8, 9, 9]
        assert calls == {"key": 1, "exempt": 1, "own_limit": 1}


def test_failing_function_of_several_limits_fails_each_of_them(
    make_fleetlimit: FleetlimitFactory,
) -> None:
    """It is called once, and the metric has the failure of each limit."""
    calls: list[str] = []

    def own_limit(_connection: HTTPConnection) -> str:
        calls.append("own_limit")
        raise RuntimeError("no table")

    fleetlimit = make_fleetlimit()
    app = FastAPI(lifespan=fleetlimit)
    limits = [Depends(RateLimit(own_limit, default=f"{number}/hour")) for number in (1, 2)]
    app.get("/", dependencies=limits)(lambda: None)
    with TestClient(app) as client:
        assert [client.get("/").status_code for _ in range(2)] == [200, 429]
        text = fleetlimit.metrics.render()[0].decode()
    assert calls == ["own_limit"] * 2
    assert "fleetlimit_caller_limits_failures_total 4.0" in text
