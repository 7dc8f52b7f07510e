"""Import of the served app, and its wrapper."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import Depends, FastAPI
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from fleetlimit import ConfigError, Fleetlimit, Policy, PolicyLimit, PolicySet, RateLimitMiddleware
from fleetlimit.core.policy import Match
from fleetlimit.core.quota import rate_quota
from fleetlimit.core.subject import Principal
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
    """Return a working directory whose modules are removed from `sys.modules` afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


def test_empty_target_is_the_example_app() -> None:
    """Without a target, the app is the example app."""
    app = import_app("")
    assert isinstance(app, FastAPI)
    assert app.title == "Fleetlimit"


@pytest.mark.parametrize("attribute", ["app", "made.app"])
def test_import_app_finds_modules_of_the_working_directory(modules: Path, attribute: str) -> None:
    """The working directory is on the import path, as with uvicorn."""
    (modules / "target_a.py").write_text(
        "class made:\n    @staticmethod\n    def app(): ...\napp = made.app\n"
    )
    assert callable(import_app(f"target_a:{attribute}"))
    assert callable(import_app(f"target_a:{attribute}"))
    assert sys.path.count(str(modules)) == 1


@pytest.mark.parametrize("target", ["target", ":app", "target:"])
def test_import_app_rejects_an_incomplete_target(target: str) -> None:
    """The error of a target without module or attribute has the form to write."""
    with pytest.raises(ConfigError, match=r"is not an app: write package\.module:app"):
        import_app(target)


@pytest.mark.parametrize("target", ["nowhere_to_be_found:app", "target_b.deeper:app"])
def test_import_app_rejects_a_missing_module(modules: Path, target: str) -> None:
    """The error has the directory that was searched."""
    (modules / "target_b.py").write_text("app = 7\n")
    with pytest.raises(ConfigError, match="there is no module"):
        import_app(target)


@pytest.mark.parametrize("attribute", ["gone", "app", "app.deeper"])
def test_import_app_rejects_a_missing_app(modules: Path, attribute: str) -> None:
    """The attribute must exist and be callable."""
    (modules / "target_c.py").write_text("app = 7\n")
    with pytest.raises(ConfigError, match=f"target_c has no app named '{attribute}'"):
        import_app(f"target_c:{attribute}")


def test_import_app_keeps_the_errors_of_the_module(modules: Path) -> None:
    """A failed import inside the module keeps its traceback."""
    (modules / "target_d.py").write_text("import nowhere_to_be_found\n")
    with pytest.raises(ModuleNotFoundError, match="nowhere_to_be_found"):
        import_app("target_d:app")


def test_wrapped_fastapi_app_gets_the_middleware() -> None:
    """The middleware applies the policies that match the templates of the app."""
    app = FastAPI()
    app.add_api_route("/orders/{order_id}", lambda: None)
    wrapped = WrappedApp(app, enforced(policy("orders", "2/day", "/orders/{order_id}")))
    assert statuses(wrapped.app, "/orders/1", 3) == [200, 200, 429]


def test_middleware_is_not_added_twice() -> None:
    """An app with the middleware counts each request once."""
    app = FastAPI()
    app.add_middleware(RateLimitMiddleware)
    app.add_api_route("/orders", lambda: None)
    wrapped = WrappedApp(app, enforced(policy("default", "2/day")))
    assert statuses(wrapped.app, "/orders", 3) == [200, 200, 429]


def test_route_table_of_an_asgi_app_follows_the_policies() -> None:
    """A template in a later policy set is limited after the reload."""
    fleetlimit = enforced(policy("default", "9/day"), policy("orders", "1/day", "/orders/{id}"))
    wrapped = WrappedApp(plain, fleetlimit)
    assert statuses(wrapped.app, "/orders/1", 2) == [200, 429]
    assert statuses(wrapped.app, "/carts/1", 2) == [200, 200]
    carts = policy("carts", "1/day", "/carts/{id}", "/prefix*")
    fleetlimit.limiter.active_policies.replace(PolicySet([carts]))
    assert statuses(wrapped.app, "/carts/1", 2) == [200, 429]
    assert statuses(wrapped.app, "/prefix/of/all", 2) == [429, 429]
    templates = [entry.template for entry in wrapped.routes.routes]
    assert templates == ["/carts/{id}", "/prefix{path:path}"]


def test_missing_policy_is_an_error() -> None:
    """An unknown policy in a dependency is an error before the app serves requests."""
    app = FastAPI()
    app.add_api_route("/", lambda: None, dependencies=[Depends(PolicyLimit("gone"))])
    with pytest.raises(ConfigError, match="there is no policy 'gone' in code: none"):
        WrappedApp(app, enforced())


@pytest.mark.parametrize("same", [True, False])
def test_own_fleetlimit_delegates_to_serve(log: pytest.LogCaptureFixture, same: bool) -> None:  # noqa: FBT001 - a case
    """The app's `Fleetlimit` delegates to that of `serve`; ignored policies are logged."""
    orders = policy("orders", "2/day")
    own = Fleetlimit(policies=PolicySet([orders if same else policy("orders", "9/day")]))
    app = FastAPI(lifespan=own)
    app.add_api_route("/", lambda: None, dependencies=[Depends(PolicyLimit("orders"))])
    fleetlimit = enforced(orders)
    wrapped = WrappedApp(app, fleetlimit)
    with TestClient(wrapped.app) as client:
        assert [client.get("/").status_code for _ in range(3)] == [200, 200, 429]
        assert own.limiter is fleetlimit.limiter
        assert b'fleetlimit_checks_total{outcome="denied"} 1.0' in own.metrics.render()[0]
    assert bool([line for line in log.messages if "policies.ignored" in line]) is not same


@pytest.mark.parametrize("given", [True, False])
def test_resolver_that_serve_ignores_is_warned_about(
    log: pytest.LogCaptureFixture,
    given: bool,  # noqa: FBT001 - a case
) -> None:
    """The resolver of the app's own `Fleetlimit` is not used by that of `serve`."""

    async def resolver(_connection: HTTPConnection) -> Principal | None:
        return None

    app = FastAPI(lifespan=Fleetlimit(resolver=resolver if given else None))
    with TestClient(WrappedApp(app, enforced()).app):
        pass
    assert bool([line for line in log.messages if "resolver.ignored" in line]) is given


@pytest.mark.parametrize("kind", ["fastapi", "starlette", "plain"])
def test_each_kind_of_app_is_traced(kind: str) -> None:
    """Each request has one server span, named after its route; a 429 too."""
    provider, spans = TracerProvider(shutdown_on_exit=False), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    target: ASGIApp = plain
    if kind == "fastapi":
        target = FastAPI()
        target.add_api_route("/orders/{order_id}", lambda: None)
    elif kind == "starlette":
        target = Starlette()
        target.add_route("/orders/{order_id}", plain_view)
    wrapped = WrappedApp(
        target, enforced(policy("orders", "1/day", "/orders/{order_id}")), provider
    )
    assert statuses(wrapped.app, "/orders/1", 2) == [200, 429]
    if kind == "plain":
        assert statuses(wrapped.app, "/other", 1) == [200]
    provider.shutdown()
    names = [span.name for span in spans.get_finished_spans()]
    assert names == ["GET /orders/{order_id}"] * 2 + ["GET"] * (kind == "plain")


async def plain_view(_request: object) -> PlainTextResponse:
    return PlainTextResponse("plain")
