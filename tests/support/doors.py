"""One limit by both doors, the middleware and the dependency, on a route and a WebSocket."""

import pytest
from fastapi import Depends, FastAPI, WebSocket
from starlette.types import Message

from fleetlimit import RateLimitMiddleware
from fleetlimit.core.policy import Match
from fleetlimit.web.dependency import PolicyLimit
from support.limiter import rate_policy
from support.web import LimiterBench

ONE = rate_policy("default", "1/minute", match=Match())
CONNECT: Message = {"type": "websocket.connect"}
GONE: Message = {"type": "websocket.disconnect", "code": 1001}


async def items() -> list[int]:
    """Return no items."""
    return []


async def room(socket: WebSocket) -> None:
    """Accept a connection and close it."""
    await socket.accept()
    await socket.close()


def by_middleware(bench: LimiterBench) -> FastAPI:
    """Return an app whose middleware limits both routes."""
    app = bench.install(FastAPI())
    app.get("/items")(items)
    app.websocket("/ws")(room)
    app.add_middleware(RateLimitMiddleware)
    return app


def by_dependency(bench: LimiterBench) -> FastAPI:
    """Return an app whose dependencies limit both routes."""
    app = bench.install(FastAPI())
    app.get("/items", dependencies=[Depends(PolicyLimit("default"))])(items)
    app.websocket("/ws", dependencies=[Depends(PolicyLimit("default"))])(room)
    return app


both_doors = pytest.mark.parametrize("make_app", [by_middleware, by_dependency])
