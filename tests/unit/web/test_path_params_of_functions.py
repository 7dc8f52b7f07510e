"""Path parameters of the connection that functions of the app receive."""

from collections.abc import Callable
from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, WebSocket
from fastapi.testclient import TestClient
from starlette.requests import HTTPConnection
from starlette.testclient import WebSocketDenialResponse

from fleetlimit import Fleetlimit, RateLimit, RateLimitMiddleware


def is_first(connection: HTTPConnection) -> bool:
    return bool(connection.path_params["number"] == 1)


def cost_of(connection: HTTPConnection) -> int:
    return 1 if connection.path_params["number"] == 1 else 2


async def rate_of(connection: HTTPConnection) -> str:
    return f"{connection.path_params['number']}/minute"


async def tenant(connection: HTTPConnection) -> str:
    connection.state.tenant = connection.path_params["tenant"]
    return str(connection.state.tenant)


def app_with(limit: RateLimit, *, middleware: bool, mounted: bool) -> FastAPI:
    router = APIRouter(dependencies=[Depends(limit)])

    @router.get("/{tenant}/{number:int}")
    async def read(tenant: str, number: int) -> str:
        return f"{tenant} {number}"

    @router.websocket("/{tenant}/{number:int}")
    async def connect(socket: WebSocket) -> None:
        await socket.accept()

    app = FastAPI(lifespan=Fleetlimit())
    if middleware:
        app.add_middleware(RateLimitMiddleware)
    if mounted:
        inner = FastAPI()
        inner.include_router(router)
        app.mount("/{region}", inner)
    else:
        app.include_router(router, prefix="/eu")
    return app


@pytest.mark.parametrize("mounted", [False, True])
@pytest.mark.parametrize("middleware", [False, True])
@pytest.mark.parametrize(
    ("limit", "paths", "expected"),
    [
        (lambda: RateLimit("1/minute", key=tenant), ("a/1", "b/1", "a/2"), (200, 200, 429)),
        (lambda: RateLimit("1/minute", exempt=is_first), ("a/1", "a/1", "a/2", "a/2"), "GGGR"),
        (lambda: RateLimit("3/minute", cost=cost_of), ("a/2", "a/2", "a/1", "a/1"), "GRGR"),
        (lambda: RateLimit(rate_of, default="9/minute"), ("a/1", "a/1"), "GR"),
    ],
    ids=["key", "exempt", "cost", "limits"],
)
def test_functions_receive_the_path_parameters(
    limit: Callable[[], RateLimit],
    paths: tuple[str, ...],
    expected: Any,
    *,
    middleware: bool,
    mounted: bool,
) -> None:
    """The middleware runs before routing, and its functions receive the same parameters."""
    if isinstance(expected, str):
        expected = tuple({"G": 200, "R": 429}[each] for each in expected)
    with TestClient(app_with(limit(), middleware=middleware, mounted=mounted)) as client:
        assert tuple(client.get(f"/eu/{each}").status_code for each in paths) == expected


def test_handshakes_and_the_state_have_them() -> None:
    """A WebSocket handshake is treated alike, and the state of the function is that of the app."""
    seen: list[str] = []
    app = app_with(RateLimit("1/minute", key=tenant), middleware=True, mounted=False)

    @app.middleware("http")
    async def unused(request: Any, call_next: Any) -> Any:
        response = await call_next(request)
        seen.append(request.state.tenant)
        return response

    with TestClient(app) as client:
        assert client.get("/eu/a/1").status_code == 200
        with client.websocket_connect("/eu/a/1"), client.websocket_connect("/eu/b/1"):
            pass
        with pytest.raises(WebSocketDenialResponse), client.websocket_connect("/eu/b/1"):
            pass
    assert seen == ["a"]
