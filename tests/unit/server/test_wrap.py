"""What stands behind the limiter, and how it is found."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import Depends, FastAPI
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from fleetlimit import ConfigError, Fleetlimit, Policy, PolicyLimit, PolicySet, RateLimitMiddleware
from fleetlimit.core.policy import Match
from fleetlimit.core.quota import rate_quota
from fleetlimit.server.wrap import WrappedApp, import_app


def policy(name: str, rate: str, *routes: str) -> Policy:
    return Policy(name, (rate_quota(rate),), match=Match(routes=routes) if routes else None)


def enforced(*policies: Policy) -> Fleetlimit:
    fleetlimit = Fleetlimit(policies=PolicySet(policies))
    fleetlimit.activate_policies()
    return fleetlimit


async def plain(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("plain")(scope, receive, send)


def statuses(app: ASGIApp, path: str, times: int) -> list[int]:
    client = TestClient(app)
    return [client.get(path).status_code for _ in range(times)]


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a working directory whose modules are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


def test_the_bundled_service() -> None:
    """Without a target it is the bundled service."""
    app = import_app("")
    assert isinstance(app, FastAPI)
    assert app.title == "Fleetlimit"


@pytest.mark.parametrize("attribute", ["app", "made.app"])
def test_an_app_in_the_working_directory(modules: Path, attribute: str) -> None:
    """A module beside is found, as uvicorn finds it, and the app within."""
    (modules / "target_a.py").write_text(
        "class made:\n    @staticmethod\n    def app(): ...\napp = made.app\n"
    )
    assert callable(import_app(f"target_a:{attribute}"))
    assert callable(import_app(f"target_a:{attribute}"))
    assert sys.path.count(str(modules)) == 1


@pytest.mark.parametrize("target", ["target", ":app", "target:"])
def test_what_is_no_target(target: str) -> None:
    """A target without its two parts is told what to write."""
    with pytest.raises(ConfigError, match=r"is not an app: write package\.module:app"):
        import_app(target)


@pytest.mark.parametrize("target", ["nowhere_to_be_found:app", "target_b.deeper:app"])
def test_no_such_module(modules: Path, target: str) -> None:
    """A module that is not there is told with where it was looked for."""
    (modules / "target_b.py").write_text("app = 7\n")
    with pytest.raises(ConfigError, match="there is no module"):
        import_app(target)


@pytest.mark.parametrize("attribute", ["gone", "app", "app.deeper"])
def test_no_such_app(modules: Path, attribute: str) -> None:
    """What is not there or cannot be called is no app."""
    (modules / "target_c.py").write_text("app = 7\n")
    with pytest.raises(ConfigError, match=f"target_c has no app named '{attribute}'"):
        import_app(f"target_c:{attribute}")


def test_an_import_that_fails_within(modules: Path) -> None:
    """What a module itself does not find is its own error, with its traceback."""
    (modules / "target_d.py").write_text("import nowhere_to_be_found\n")
    with pytest.raises(ModuleNotFoundError, match="nowhere_to_be_found"):
        import_app("target_d:app")


def test_an_app_without_anything() -> None:
    """A FastAPI app gets the middleware, and with it the policies of its templates."""
    app = FastAPI()
    app.add_api_route("/orders/{order_id}", lambda: None)
    front = WrappedApp(app, enforced(policy("orders", "2/day", "/orders/{order_id}")))
    assert statuses(front.app, "/orders/1", 3) == [200, 200, 429]


def test_an_app_with_the_middleware() -> None:
    """An app that has the middleware already is not counted twice."""
    app = FastAPI()
    app.add_middleware(RateLimitMiddleware)
    app.add_api_route("/orders", lambda: None)
    front = WrappedApp(app, enforced(policy("default", "2/day")))
    assert statuses(front.app, "/orders", 3) == [200, 200, 429]


def test_a_plain_app_follows_the_policies() -> None:
    """A route that a later set of policies names is held from then on."""
    fleetlimit = enforced(policy("default", "9/day"), policy("orders", "1/day", "/orders/{id}"))
    front = WrappedApp(plain, fleetlimit)
    assert statuses(front.app, "/orders/1", 2) == [200, 429]
    assert statuses(front.app, "/carts/1", 2) == [200, 200]
    carts = policy("carts", "1/day", "/carts/{id}", "/prefix*")
    fleetlimit.limiter.active_policies.replace(PolicySet([carts]))
    assert statuses(front.app, "/carts/1", 2) == [200, 429]
    assert statuses(front.app, "/prefix/of/all", 2) == [429, 429]
    templates = [entry.template for entry in front.routes.routes]
    assert templates == ["/carts/{id}", "/prefix{path:path}"]


def test_a_dependency_without_its_policy() -> None:
    """A policy that a dependency names and nobody wrote is found before anything is served."""
    app = FastAPI()
    app.add_api_route("/", lambda: None, dependencies=[Depends(PolicyLimit("gone"))])
    with pytest.raises(ConfigError, match="there is no policy 'gone' in code: none"):
        WrappedApp(app, enforced())


@pytest.mark.parametrize("same", [True, False])
def test_a_fleetlimit_of_its_own_gives_way(log: pytest.LogCaptureFixture, same: bool) -> None:  # noqa: FBT001 - a case
    """The app's own limiter is the one in front; policies that are not in force are told."""
    orders = policy("orders", "2/day")
    own = Fleetlimit(policies=PolicySet([orders if same else policy("orders", "9/day")]))
    app = FastAPI(lifespan=own)
    app.add_api_route("/", lambda: None, dependencies=[Depends(PolicyLimit("orders"))])
    fleetlimit = enforced(orders)
    front = WrappedApp(app, fleetlimit)
    with TestClient(front.app) as client:
        assert [client.get("/").status_code for _ in range(3)] == [200, 200, 429]
        assert own.limiter is fleetlimit.limiter
    assert bool([line for line in log.messages if "policies.ignored" in line]) is not same


@pytest.mark.parametrize("kind", ["fastapi", "starlette", "plain"])
def test_every_app_is_traced(kind: str) -> None:
    """Whatever the app is, a request has one server span, named after its route; a 429 as well."""
    provider, spans = TracerProvider(shutdown_on_exit=False), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    target: ASGIApp = plain
    if kind == "fastapi":
        target = FastAPI()
        target.add_api_route("/orders/{order_id}", lambda: None)
    elif kind == "starlette":
        target = Starlette()
        target.add_route("/orders/{order_id}", plain_view)
    front = WrappedApp(target, enforced(policy("orders", "1/day", "/orders/{order_id}")), provider)
    assert statuses(front.app, "/orders/1", 2) == [200, 429]
    if kind == "plain":
        assert statuses(front.app, "/other", 1) == [200]
    provider.shutdown()
    names = [span.name for span in spans.get_finished_spans()]
    assert names == ["GET /orders/{order_id}"] * 2 + ["GET"] * (kind == "plain")


async def plain_view(_request: object) -> PlainTextResponse:
    return PlainTextResponse("plain")
