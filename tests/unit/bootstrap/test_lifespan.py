"""`Fleetlimit` as the lifespan of an app, and inside another lifespan."""

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
    ConcurrencyLimit,
    ConfigError,
    Fleetlimit,
    Policy,
    PolicyLimit,
    PolicySet,
    RateLimit,
    RateLimitMiddleware,
)
from fleetlimit.bootstrap.settings import Settings
from fleetlimit.core.policy import Match, Mode
from fleetlimit.stores.embedded import EmbeddedValkey
from fleetlimit.telemetry import EventLoopLagMonitor
from fleetlimit.testing import ManualClock
from fleetlimit.web.wiring import find_limiter
from support.eventually import eventually_async

TWO_A_DAY = PolicySet([Policy("orders", "2/day")])
FILE = """\
version: 1
policies:
  - {name: default, limits: [{rate: 3/day}]}
  - {name: orders, match: {routes: [/orders]}, limits: [{rate: 2/day}]}
"""


def depending(fleetlimit: Fleetlimit | None = None) -> FastAPI:
    """Return an app with a route that depends on the policy `orders`."""
    app = FastAPI(lifespan=fleetlimit)

    @app.get("/orders", dependencies=[Depends(PolicyLimit("orders"))])
    async def orders() -> list[int]:
        return []

    return app


def test_class_as_lifespan_is_an_error_with_the_fix() -> None:
    """The app would be taken for the URL of the store."""
    app = FastAPI(lifespan=Fleetlimit)  # type: ignore[arg-type]  # the mistake
    with pytest.raises(ConfigError, match=r"write lifespan=Fleetlimit\(\)"), TestClient(app):
        pass


@pytest.mark.parametrize("kind", [RateLimit, ConcurrencyLimit, PolicyLimit])
def test_class_as_dependency_is_an_error_of_the_route(kind: type) -> None:
    """FastAPI would read the limit from the query, so that each client chose its own."""
    app = FastAPI(lifespan=Fleetlimit())
    expected = rf"Depends\({kind.__name__}\) has no limit: write Depends\({kind.__name__}\("
    with pytest.raises(ConfigError, match=expected):
        app.add_api_route("/", lambda: None, dependencies=[Depends(kind)])


def nothing() -> None:
    """Return an empty response."""


def statuses(client: TestClient, path: str, times: int) -> list[int]:
    return [client.get(path).status_code for _ in range(times)]


async def test_event_loop_lag_is_measured_while_running() -> None:
    """The lag is measured from start to close."""
    async with Fleetlimit(policies=TWO_A_DAY) as fleetlimit:
        (monitor,) = [
            each for each in fleetlimit._background.tasks if isinstance(each, EventLoopLagMonitor)
        ]
        assert monitor.running
    assert not monitor.running


def test_lifespan_installs_policies_from_code() -> None:
    """An app whose lifespan is a `Fleetlimit` has the limits of its policy set."""
    with TestClient(depending(Fleetlimit(policies=TWO_A_DAY))) as client:
        assert statuses(client, "/orders", 3) == [200, 200, 429]


def test_fleetlimit_runs_inside_another_lifespan() -> None:
    """A lifespan with other resources can contain that of `Fleetlimit`."""
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
def test_policy_file_limits_routes_by_template(tmp_path: Path, given: type) -> None:
    """With the middleware, the policies of a file apply to the templates of routes."""
    (tmp_path / "policies.yaml").write_text(FILE)
    app = FastAPI(lifespan=Fleetlimit(policies=given(tmp_path / "policies.yaml")))
    app.add_middleware(RateLimitMiddleware)
    app.add_api_route("/orders", nothing)
    app.add_api_route("/other", nothing)
    with TestClient(app) as client:
        assert statuses(client, "/orders", 3) == [200, 200, 429]
        assert statuses(client, "/other", 4) == [200, 200, 200, 429]


def test_policy_file_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`FLEETLIMIT_POLICIES` is the default policy file."""
    (tmp_path / "policies.yaml").write_text(FILE)
    monkeypatch.setenv("FLEETLIMIT_POLICIES", str(tmp_path / "policies.yaml"))
    assert Fleetlimit().policy_file.policy_set.get("orders")


def test_mounted_app_uses_the_same_limiter() -> None:
    """A mounted app has the limiter of the outer app, and its routes are logged with the mount."""
    inner = depending()
    middle = FastAPI()
    middle.mount("/inner", inner)
    fleetlimit = Fleetlimit(policies=TWO_A_DAY)
    app = FastAPI(lifespan=fleetlimit)
    app.mount("/middle", middle)
    with TestClient(app) as client:
        assert statuses(client, "/middle/inner/orders", 3) == [200, 200, 429]
        assert find_limiter({"app": inner}) is fleetlimit.http_limiter


def test_each_route_is_logged_at_start(log: pytest.LogCaptureFixture) -> None:
    """The log has a summary of the routes, and at level DEBUG each route with its policies."""
    log.set_level(logging.DEBUG, "fleetlimit")
    app = depending(Fleetlimit(policies=TWO_A_DAY))
    router = APIRouter(prefix="/v1")
    router.add_api_route("/free/{name}", lambda: None)
    app.include_router(router)
    with TestClient(app):
        pass
    routes = [each for each in log.records if "event=route" in each.getMessage()]
    table = [each.getMessage() for each in routes if each.levelno == logging.DEBUG]
    assert [line for line in table if "route.limited" in line and "route=/orders" in line]
    assert [line for line in table if "route.unlimited" in line and "/v1/free/{name}" in line]
    (summary,) = [each for each in routes if each.levelno != logging.DEBUG]
    assert summary.levelno == logging.INFO
    assert f"routes.found limited=1 unlimited={len(table) - 1}" in summary.getMessage()


def warnings_of(log: pytest.LogCaptureFixture, event: str) -> list[str]:
    return [
        each.getMessage()
        for each in log.records
        if each.levelno == logging.WARNING and f"event={event} " in each.getMessage()
    ]


def test_app_without_a_limited_route_is_warned_about(log: pytest.LogCaptureFixture) -> None:
    """One line has the fix, whatever the number of routes."""
    app = FastAPI(lifespan=Fleetlimit())
    for number in range(50):
        app.add_api_route(f"/{number}", lambda: None)
    with TestClient(app):
        pass
    (line,) = warnings_of(log, "routes.unlimited")
    assert "Depends(rate_limit(...))" in line
    assert len(log.records) < 6


@pytest.mark.parametrize(
    ("match", "unmatched"),
    [
        (Match(routes=("/orders",)), False),
        (Match(routes=("/order",)), True),
        (Match(routes=("/orders/",)), True),
        (Match(routes=("/ord*",)), False),
        (Match(methods=frozenset({"POST"}), routes=("/orders",)), True),
        (Match(methods=frozenset({"POST"})), False),
        (Match(tiers=frozenset({"pro"})), True),
        (None, True),
    ],
)
def test_policy_that_matches_no_route_is_warned_about(
    log: pytest.LogCaptureFixture,
    match: Match | None,
    unmatched: bool,  # noqa: FBT001 - a case
) -> None:
    """A wrong template limits nothing, which no request would show."""
    policies = PolicySet([Policy("a", "1/day", match=match), Policy("default", "9/day")])
    app = FastAPI(lifespan=Fleetlimit(policies=policies))
    app.add_middleware(RateLimitMiddleware)
    app.add_api_route("/orders", lambda: None)
    with TestClient(app):
        pass
    assert bool(warnings_of(log, "policy.unused")) is unmatched


def test_policies_without_the_middleware_are_warned_about(log: pytest.LogCaptureFixture) -> None:
    """Only the middleware applies policies by their match; a policy that is off has no effect."""
    policies = PolicySet(
        [
            Policy("orders", "2/day"),
            Policy("default", "1/day"),
            Policy("all", "1/day", match=Match()),
            Policy("none", "1/day", match=Match(), mode=Mode.OFF),
        ]
    )
    with TestClient(depending(Fleetlimit(policies=policies))):
        pass
    lines = warnings_of(log, "policy.unused")
    assert [
        name for name in ("orders", "default", "all", "none") if f"policy={name}" in str(lines)
    ] == [
        "default",
        "all",
    ]
    assert all("add RateLimitMiddleware" in line for line in lines)


def test_missing_policy_prevents_the_start() -> None:
    """A dependency with an unknown policy is an error that lists the known ones."""
    app = depending(Fleetlimit(policies=PolicySet([Policy("carts", "1/day")])))
    with (
        pytest.raises(ConfigError, match="there is no policy 'orders' in code: carts"),
        TestClient(app),
    ):
        pass


def test_invalid_policy_file_prevents_the_start(tmp_path: Path) -> None:
    """The error has the line in the policy file."""
    (tmp_path / "policies.yaml").write_text("version: 1\npolicies:\n  - {name: default}\n")
    with pytest.raises(ConfigError, match=r"policies\.yaml:3: "):
        Fleetlimit(policies=tmp_path / "policies.yaml")


def test_invalid_setting_prevents_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A `Fleetlimit` that the lifespan makes reads the settings before the first request."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with Fleetlimit()(app):
            yield

    monkeypatch.setenv("FLEETLIMIT_STORE_TIMEOUT", "soon")
    with (
        pytest.raises(ConfigError, match="FLEETLIMIT_STORE_TIMEOUT: "),
        TestClient(FastAPI(lifespan=lifespan)),
    ):
        pass


def test_arguments_override_settings(tmp_path: Path) -> None:
    """The arguments `store` and `policies` override `settings`."""
    (tmp_path / "policies.yaml").write_text(FILE)
    settings = Settings.load(store="redis://elsewhere")
    fleetlimit = Fleetlimit("memory://", tmp_path / "policies.yaml", settings=settings)
    assert fleetlimit.limiter.store.location == "memory://"
    assert fleetlimit.policy_file.policy_set.get("orders")


def test_app_can_be_restarted(valkey: EmbeddedValkey) -> None:
    """An app can start again after its end, in another event loop."""
    fleetlimit = Fleetlimit(valkey.url, TWO_A_DAY, settings=Settings.load(key_prefix="twice"))
    app = depending(fleetlimit)
    with TestClient(app) as client:
        assert statuses(client, "/orders", 1) == [200]
    with TestClient(app) as client:
        assert statuses(client, "/orders", 2) == [200, 429]


def test_fleetlimit_that_runs_is_not_started_again() -> None:
    """A second start would lose the background tasks of the first; the error says what to write."""
    fleetlimit = Fleetlimit(policies=TWO_A_DAY)
    inner = depending()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with fleetlimit(app), fleetlimit(inner):
            yield

    with (
        pytest.raises(ConfigError, match="runs already: a mounted app without a lifespan uses the"),
        TestClient(FastAPI(lifespan=lifespan)),
    ):
        pass
    with TestClient(depending(fleetlimit)) as client:
        assert statuses(client, "/orders", 3) == [200, 200, 429]


def test_memory_store_logs_one_warning(log: pytest.LogCaptureFixture) -> None:
    """The warning about limits per process is logged once, with the fix."""
    with TestClient(depending(Fleetlimit(policies=TWO_A_DAY))) as client:
        statuses(client, "/orders", 3)
    warnings = [each.getMessage() for each in log.records if each.levelno == logging.WARNING]
    assert len([line for line in warnings if "store.not_shared" in line]) == 1
    assert "set FLEETLIMIT_STORE=redis://" in "".join(warnings)


@pytest.mark.parametrize(("secret", "warned"), [("", 1), ("0123456789abcdef", 0)])
def test_missing_key_secret_logs_a_warning(
    valkey: EmbeddedValkey,
    monkeypatch: pytest.MonkeyPatch,
    log: pytest.LogCaptureFixture,
    secret: str,
    warned: int,
) -> None:
    """A shared store without a key secret logs a warning; an empty secret counts as none."""
    monkeypatch.setenv("FLEETLIMIT_KEY_SECRET", secret)
    app = depending(Fleetlimit(valkey.url, TWO_A_DAY))
    with TestClient(app):
        pass
    warnings = [line for line in log.messages if "keys.not_secret" in line]
    assert len(warnings) == warned
    assert not [line for line in log.messages if "store.not_shared" in line]


def test_metrics_use_the_given_registry() -> None:
    """The metrics are in the registry of the argument."""
    registry = CollectorRegistry()
    with TestClient(depending(Fleetlimit(policies=TWO_A_DAY, registry=registry))) as client:
        statuses(client, "/orders", 3)
        labels = {"policy": "orders", "outcome": "denied"}
        assert registry.get_sample_value("fleetlimit_decisions_total", labels) == 1


async def test_registry_is_free_after_the_end() -> None:
    """Two objects share a registry one after the other, and each can start again."""
    registry = CollectorRegistry()
    first, second = Fleetlimit(registry=registry), Fleetlimit(registry=registry)
    for _ in range(2):
        async with first:
            with pytest.raises(ConfigError, match="the registry has metrics"):
                await second.start()
            assert "fleetlimit_checks" in {each.name for each in registry.collect()}
        async with second:
            pass
        assert list(registry.collect()) == []


async def test_logs_are_flushed_if_the_store_fails_to_close(
    log: pytest.LogCaptureFixture,
) -> None:
    """Suppressed denials are logged at the end despite the exception."""

    async def fails() -> None:
        raise OSError("the connection is gone")

    fleetlimit = Fleetlimit(policies=PolicySet([Policy("one", "1/day")]))
    await fleetlimit.start()
    for _ in range(10):
        await fleetlimit.limiter.check("one", principal="alice")
    fleetlimit.limiter.store.aclose = fails  # type: ignore[method-assign]
    with pytest.raises(OSError, match="gone"):
        await fleetlimit.aclose()
    assert [line for line in log.messages if "suppressed=4" in line]


async def test_suppressed_denials_are_logged_without_further_events(
    log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The count of suppressed denials is logged after its window, without another request."""
    monkeypatch.setattr("fleetlimit.bootstrap.background._FLUSH_SECONDS", 0)
    clock = ManualClock()
    async with Fleetlimit(policies=TWO_A_DAY, clock=clock) as fleetlimit:
        for _ in range(10):
            await fleetlimit.limiter.check("orders", principal="alice")
        clock.advance(11)
        await eventually_async(lambda: [line for line in log.messages if "suppressed=3" in line])


def test_starlette_app_is_limited_by_the_middleware() -> None:
    """In a Starlette app, which has no dependencies, the middleware applies the policies."""
    app = Starlette(lifespan=Fleetlimit(policies=PolicySet([Policy("default", "1/day")])))
    app.add_middleware(RateLimitMiddleware)
    with TestClient(app) as client:
        assert statuses(client, "/", 2) == [404, 429]


@pytest.mark.parametrize("policies", [PolicySet(), PolicySet([Policy("io", "9/day")])])
def test_two_limits_of_one_name_prevent_the_start(policies: PolicySet) -> None:
    """Limits of two routes, or of a route and the policy set, that have one name must be equal."""
    app = FastAPI(lifespan=Fleetlimit(policies=policies))
    for path, rate in (("/a", "2/day"), ("/b", "2/day" if policies.policies else "3/day")):
        app.get(path, dependencies=[Depends(RateLimit(rate, name="io"))])(nothing)
    with (
        pytest.raises(ConfigError, match="two different limits are named 'io': give one of them"),
        TestClient(app),
    ):
        pass
