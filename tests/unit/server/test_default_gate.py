"""An app that sets up nothing but the dependency."""

import asyncio
import gc
import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI
from starlette.testclient import TestClient

from headgate import rate_limit
from headgate.stores.embedded import EmbeddedValkey


def app() -> FastAPI:
    app = FastAPI()

    @app.post("/exports", dependencies=[Depends(rate_limit(limit=5, window=60))])
    async def create_export() -> dict[str, str]:
        return {"status": "queued"}

    return app


async def post(app: FastAPI, times: int) -> list[int]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answers = await asyncio.gather(*(client.post("/exports") for _ in range(times)))
        return [answer.status_code for answer in answers]


def test_nothing_set_up() -> None:
    """The dependency alone limits, also where every request has an event loop of its own."""
    client = TestClient(app())
    statuses = [client.post("/exports").status_code for _ in range(6)]
    assert statuses == [200] * 5 + [429]


async def test_exactly_one_warning(log: pytest.LogCaptureFixture) -> None:
    """However many requests come at once, one warning says that the limit is per process."""
    assert sorted(await post(app(), 20)) == [200] * 5 + [429] * 15
    warnings = [each.getMessage() for each in log.records if each.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "limits hold within this process only; set HEADGATE_STORE=redis://" in warnings[0]


@pytest.fixture
def shared(valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch, request: Any) -> Iterator[None]:
    monkeypatch.setenv("HEADGATE_STORE", valkey.url)
    monkeypatch.setenv("HEADGATE_KEY_PREFIX", request.node.name[:32])
    monkeypatch.setenv("HEADGATE_KEY_SECRET", "0123456789abcdef")
    # Of a busy machine's pauses none shall look like a store that is away.
    monkeypatch.setenv("HEADGATE_STORE_TIMEOUT", "5")
    yield
    # A connection that was being made when its loop ended is dropped, here and with a warning.
    gc.collect()


@pytest.mark.usefixtures("shared")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_the_variable_alone_makes_it_shared(log: pytest.LogCaptureFixture) -> None:
    """With `HEADGATE_STORE` two apps count together, and there is nothing to warn of."""
    both = [*await post(app(), 4), *await post(app(), 4)]
    assert sorted(both) == [200] * 5 + [429] * 3
    assert [each for each in log.records if each.levelno >= logging.WARNING] == []


@pytest.mark.usefixtures("shared")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_it_is_closed_with_its_loop(log: pytest.LogCaptureFixture) -> None:
    """When the event loop ends, the gate leaves the fleet; the next one opens another."""
    assert sorted(asyncio.run(post(app(), 4))) == [200] * 4
    assert sorted(asyncio.run(post(app(), 4))) == [200, 429, 429, 429]
    assert [each for each in log.records if each.levelno >= logging.WARNING] == []


@pytest.mark.usefixtures("shared")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_gate_that_outlives_its_loop() -> None:
    """Where every request has a loop of its own, no request fails for it."""
    client = TestClient(app())
    assert {client.post("/exports").status_code for _ in range(8)} == {200, 429}
