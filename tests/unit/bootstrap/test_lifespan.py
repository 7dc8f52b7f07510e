"""Fleetlimit as an app's lifespan, and within one's own."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fastapi import APIRouter, Depends, FastAPI
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.testclient import TestClient

from fleetlimit import (
    ConfigError,
    Fleetlimit,
    Policy,
    PolicySet,
    RateLimit,
    RateLimitMiddleware,
    rate_quota,
)
from fleetlimit.bootstrap.settings import Settings
from fleetlimit.stores.embedded import EmbeddedValkey
from fleetlimit.testing import ManualClock
from support.server import eventually

TWO_A_DAY = PolicySet([Policy("orders", (rate_quota("2/day"),))])
FILE = """\
version: 1
policies:
  - {name: default, limits: [{rate: 3/day}]}
  - {name: orders, match: {routes: [/orders]}, limits: [{rate: 2/day}]}
"""


def depending(fleetlimit: Fleetlimit | None = None) -> FastAPI:
    """Return an app with a route that depends on the policy `orders`."""
    app = FastAPI(lifespan=fleetlimit)

    @app.get("/orders", dependencies=[Depends(RateLimit(policy="orders"))])
    async def orders() -> list[int]:
        return []

    return app


def nothing() -> None:
    """Answer with nothing."""


def statuses(client: TestClient, path: str, times: int) -> list[int]:
    return [client.get(path).status_code for _ in range(times)]


async def test_event_loop_is_watched_while_open() -> None:
    """The event loop's lag is measured from start to close, and not beyond."""

    def watched() -> bool:
        names = [getattr(task.get_coro(), "__name__", "") for task in asyncio.all_tasks()]
        return "monitor_event_loop_lag" in names

    async with Fleetlimit(policies=TWO_A_DAY):
        assert watched()
    assert not watched()


def test_as_the_lifespan() -> None:
    """An app whose lifespan is Fleetlimit has its limits, from policies made in code."""
    with TestClient(depending(Fleetlimit(policies=TWO_A_DAY))) as client:
        assert statuses(client, "/orders", 3) == [200, 200, 429]


def test_within_ones_own_lifespan() -> None:
    """An app with more to open opens Fleetlimit among it."""
    opened = []

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with Fleetlimit(policies=TWO_A_DAY)(app):
            opened.append(app)
            yield

    app = depending()
    app.router.lifespan_context = lifespan
    with TestClient(app) as client:
        assert statuses(client, "/orders", 3) == [200, 200, 429]
    assert opened == [app]


@pytest.mark.parametrize("given", [str, Path])
def test_with_a_file(tmp_path: Path, given: type) -> None:
    """The policies of a file hold routes by their templates, with the middleware."""
    (tmp_path / "policies.yaml").write_text(FILE)
    app = FastAPI(lifespan=Fleetlimit(policies=given(tmp_path / "policies.yaml")))
    app.add_middleware(RateLimitMiddleware)
    app.add_api_route("/orders", nothing)
    app.add_api_route("/other", nothing)
    with TestClient(app) as client:
        assert statuses(client, "/orders", 3) == [200, 200, 429]
        assert statuses(client, "/other", 4) == [200, 200, 200, 429]


def test_the_file_that_a_variable_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`FLEETLIMIT_POLICIES` names the file."""
    (tmp_path / "policies.yaml").write_text(FILE)
    monkeypatch.setenv("FLEETLIMIT_POLICIES", str(tmp_path / "policies.yaml"))
    assert Fleetlimit().policy_file.policy_set.get("orders")


def test_mounted_apps() -> None:
    """An app mounted in another has the same gate, and its routes are told under their mount."""
    inner = depending()
    middle = FastAPI()
    middle.mount("/inner", inner)
    fleetlimit = Fleetlimit(policies=TWO_A_DAY)
    app = FastAPI(lifespan=fleetlimit)
    app.mount("/middle", middle)
    with TestClient(app) as client:
        assert statuses(client, "/middle/inner/orders", 3) == [200, 200, 429]
        assert inner.state.fleetlimit is fleetlimit.http_limiter


def test_coverage_is_logged(log: pytest.LogCaptureFixture) -> None:
    """At start each route is told with its policies, and one without any is warned of."""
    app = depending(Fleetlimit(policies=TWO_A_DAY))
    router = APIRouter(prefix="/v1")
    router.add_api_route("/free/{name}", lambda: None)
    app.include_router(router)
    with TestClient(app):
        pass
    told = [record for record in log.records if "route." in record.getMessage()]
    held = [record.getMessage() for record in told if record.levelno == logging.INFO]
    free = [record.getMessage() for record in told if record.levelno == logging.WARNING]
    assert [line for line in held if "route=/orders" in line and "orders" in line]
    assert [line for line in free if "route.unlimited" in line and "/v1/free/{name}" in line]


def test_a_policy_that_is_not_there() -> None:
    """A dependency that names no policy keeps the app from starting, and says which there are."""
    app = depending(Fleetlimit(policies=PolicySet([Policy("carts", (rate_quota("1/day"),))])))
    with (
        pytest.raises(ConfigError, match="there is no policy 'orders' in code: carts"),
        TestClient(app),
    ):
        pass


def test_a_wrong_file_at_start(tmp_path: Path) -> None:
    """A wrong file never starts anything; the message has its line."""
    (tmp_path / "policies.yaml").write_text("version: 1\npolicies:\n  - {name: default}\n")
    with pytest.raises(ConfigError, match=r"policies\.yaml:3: "):
        Fleetlimit(policies=tmp_path / "policies.yaml")


def test_arguments_before_settings(tmp_path: Path) -> None:
    """A store or policies given beside settings are not silently left out."""
    (tmp_path / "policies.yaml").write_text(FILE)
    settings = Settings.load(store="redis://elsewhere")
    fleetlimit = Fleetlimit("memory://", tmp_path / "policies.yaml", settings=settings)
    assert fleetlimit.limiter.store.location == "memory://"
    assert fleetlimit.policy_file.policy_set.get("orders")


def test_twice(valkey: EmbeddedValkey) -> None:
    """An app may be started again after it ended, in another event loop."""
    fleetlimit = Fleetlimit(valkey.url, TWO_A_DAY, settings=Settings.load(key_prefix="twice"))
    app = depending(fleetlimit)
    with TestClient(app) as client:
        assert statuses(client, "/orders", 1) == [200]
    with TestClient(app) as client:
        assert statuses(client, "/orders", 2) == [200, 429]


def test_one_warning_of_a_store_for_this_process_alone(log: pytest.LogCaptureFixture) -> None:
    """Limits per process are warned of once, with what to write."""
    with TestClient(depending(Fleetlimit(policies=TWO_A_DAY))) as client:
        statuses(client, "/orders", 3)
    warnings = [each.getMessage() for each in log.records if each.levelno == logging.WARNING]
    assert len([line for line in warnings if "store.not_shared" in line]) == 1
    assert "set FLEETLIMIT_STORE=redis://" in "".join(warnings)


@pytest.mark.parametrize(("secret", "warned"), [("", 1), ("0123456789abcdef", 0)])
def test_identities_without_a_secret(
    valkey: EmbeddedValkey,
    monkeypatch: pytest.MonkeyPatch,
    log: pytest.LogCaptureFixture,
    secret: str,
    warned: int,
) -> None:
    """A shared store with guessable hashes is warned of, an empty secret being none."""
    monkeypatch.setenv("FLEETLIMIT_KEY_SECRET", secret)
    app = depending(Fleetlimit(valkey.url, TWO_A_DAY))
    with TestClient(app):
        pass
    told = [line for line in log.messages if "keys.not_secret" in line]
    assert len(told) == warned
    assert not [line for line in log.messages if "store.not_shared" in line]


def test_a_registry_of_ones_own() -> None:
    """Metrics go where one's own are."""
    registry = CollectorRegistry()
    with TestClient(depending(Fleetlimit(policies=TWO_A_DAY, registry=registry))) as client:
        statuses(client, "/orders", 3)
    labels = {"policy": "orders", "outcome": "denied"}
    assert registry.get_sample_value("fleetlimit_decisions_total", labels) == 1


async def test_what_the_logs_hold_is_written_although_the_store_fails_to_close(
    log: pytest.LogCaptureFixture,
) -> None:
    """Refusals that were only counted are told at the end, come what may."""

    async def fails() -> None:
        raise OSError("the connection is gone")

    fleetlimit = Fleetlimit(policies=PolicySet([Policy("one", (rate_quota("1/day"),))]))
    await fleetlimit.start()
    for _ in range(10):
        await fleetlimit.limiter.check("one", principal="alice")
    fleetlimit.limiter.store.aclose = fails  # type: ignore[method-assign]
    with pytest.raises(OSError, match="gone"):
        await fleetlimit.aclose()
    assert [line for line in log.messages if "suppressed=4" in line]


async def test_counts_of_a_flood_are_written_while_nothing_follows(
    log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was only counted is told after its window, without another request."""
    monkeypatch.setattr("fleetlimit.bootstrap.fleetlimit._FLUSH_SECONDS", 0)
    clock = ManualClock()
    async with Fleetlimit(policies=TWO_A_DAY, clock=clock) as fleetlimit:
        for _ in range(10):
            await fleetlimit.limiter.check("orders", principal="alice")
        clock.advance(11)
        await eventually(lambda: [line for line in log.messages if "suppressed=3" in line])


def test_an_app_of_starlette_has_no_dependencies() -> None:
    """A Starlette app is held by the middleware alone."""
    app = Starlette(
        lifespan=Fleetlimit(policies=PolicySet([Policy("default", (rate_quota("1/day"),))]))
    )
    app.add_middleware(RateLimitMiddleware)
    with TestClient(app) as client:
        assert statuses(client, "/", 2) == [404, 429]
