"""Which gate an app has: its lifespan's, or one that is opened where it sets up none."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from starlette.testclient import TestClient

from fleetlimit.web.dependency import RateLimit
from fleetlimit.web.http_limiter import DefaultGate
from fleetlimit.web.middleware import RateLimitMiddleware
from support.web import LimiterBench


async def items() -> None: ...


@pytest.fixture
def default_gate() -> Any:
    """Put the way to open a gate back after the test."""
    before = DefaultGate.open
    yield
    DefaultGate.open = before


@pytest.mark.usefixtures("default_gate")
def test_app_that_sets_up_nothing() -> None:
    """An app without a gate gets one, opened once."""
    bench = LimiterBench()
    opened: list[LimiterBench] = []

    def open_gate() -> Any:
        opened.append(bench)
        return bench.http_limiter

    DefaultGate.open = staticmethod(open_gate)
    app = FastAPI()
    app.get("/items", dependencies=[Depends(RateLimit("1/minute"))])(items)
    client = TestClient(app)
    assert [client.get("/items").status_code for _ in range(2)] == [200, 429]
    assert opened == [bench]


@pytest.mark.usefixtures("default_gate")
def test_nothing_can_open_a_gate() -> None:
    """Without the package's root there is no default gate, and the error says what to do."""
    DefaultGate.open = None
    app = FastAPI()
    app.add_middleware(RateLimitMiddleware)
    with pytest.raises(RuntimeError, match="import fleetlimit"):
        TestClient(app).get("/")


def test_gate_of_the_lifespan() -> None:
    """The gate that the lifespan opened serves the app and what is mounted in it."""
    bench = LimiterBench()

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        yield {"fleetlimit": bench.http_limiter}

    inner, app = FastAPI(), FastAPI(lifespan=lifespan)
    inner.get("/items", dependencies=[Depends(RateLimit("1/minute"))])(items)
    app.mount("/sub", inner)
    with TestClient(app) as client:
        assert [client.get("/sub/items").status_code for _ in range(2)] == [200, 429]
    assert not hasattr(app.state, "fleetlimit")
