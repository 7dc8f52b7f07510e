"""Import of the served app, and its wrapper."""

import contextlib
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import Depends, FastAPI
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from fleetlimit import (
    CheckDecided,
    ConfigError,
    Event,
    Exemption,
    Fleetlimit,
    Policy,
    PolicyLimit,
    PolicySet,
    Principal,
    RateLimitMiddleware,
    Settings,
)
from fleetlimit.bootstrap.identity import IdentifierBuilder
from fleetlimit.core.policy import Match
from fleetlimit.core.quota import rate_quota
from fleetlimit.policy_file import IdentitySection, PolicyFile
from fleetlimit.server.wrap import WrappedApp, import_app
from fleetlimit.testing import ManualClock
from fleetlimit.web.serving_limiter import serving


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


def test_factory_without_a_target_is_an_error() -> None:
    """The option does not mean the example app."""
    with pytest.raises(ConfigError, match="write --factory package"):
        import_app("", factory=True)


@pytest.mark.parametrize("attribute", ["app", "made.app"])
def test_import_app_finds_modules_of_the_working_directory(modules: Path, attribute: str) -> None:
    """The working directory is on the import path, as with uvicorn."""
    (modules / "target_a.py").write_text(
        "class made:\n    @staticmethod\n    async def app(scope, receive, send): ...\n"
        "app = made.app\n"
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


CALLABLES = """
import functools
from fastapi import FastAPI

app = FastAPI()

def create_app(): return app
def create_with_options(debug=False, title="", version=""): return app
def create_anything(*args, **kwargs): return app
def create_with_argument(settings): return app
async def create_later(): return app
def create_nothing(): return None

async def function(scope, receive, send): ...
def plain_function(scope, receive, send): return function(scope, receive, send)
async def any_arguments(*args): ...
def two_calls(scope): return function

class Instance:
    async def __call__(self, scope, receive, send): ...
    async def method(self, scope, receive, send): ...

instance = Instance()
method = instance.method
part = functools.partial(Instance.method, instance)

class Awaited:
    def __init__(self, scope, receive, send): ...
    def __await__(self): yield

partial_factory = functools.partial(create_with_argument, None)
"""


@pytest.mark.parametrize(
    "name",
    ["app", "function", "plain_function", "any_arguments", "instance", "method", "part", "Awaited"],
)
def test_import_app_accepts_each_kind_of_asgi_app(modules: Path, name: str) -> None:
    """Functions, objects, methods and awaitable classes are ASGI apps, and no factories."""
    (modules / "target_e.py").write_text(CALLABLES)
    assert import_app(f"target_e:{name}") is getattr(sys.modules["target_e"], name)
    with pytest.raises(ConfigError, match=f"target_e:{name} is an app and no factory: leave out"):
        import_app(f"target_e:{name}", factory=True)


@pytest.mark.parametrize(
    "name",
    [
        "create_app",
        "create_with_options",
        "create_anything",
        "create_with_argument",
        "create_later",
        "create_nothing",
        "two_calls",
        "Instance",
        "FastAPI",
        "partial_factory",
    ],
)
def test_import_app_rejects_what_is_no_asgi_app(modules: Path, name: str) -> None:
    """A factory is refused at start, with the option to write."""
    (modules / "target_e.py").write_text(CALLABLES)
    with pytest.raises(
        ConfigError, match=f"target_e:{name} is no ASGI app.*serve --factory target_e:{name}"
    ):
        import_app(f"target_e:{name}")


@pytest.mark.parametrize(
    "name", ["create_app", "create_with_options", "create_anything", "partial_factory", "FastAPI"]
)
def test_import_app_calls_a_factory(modules: Path, name: str) -> None:
    """With `--factory` the target creates the app."""
    (modules / "target_e.py").write_text(CALLABLES)
    assert isinstance(import_app(f"target_e:{name}", factory=True), FastAPI)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("create_with_argument", "has arguments without a default: write a factory without"),
        ("create_later", "is no ASGI app.*: a factory must return one, and not be a coroutine"),
        ("create_nothing", "is no ASGI app.*: a factory must return one"),
    ],
)
def test_import_app_rejects_a_factory_without_an_app(
    modules: Path, name: str, message: str
) -> None:
    """A factory that cannot be called, or that creates no ASGI app, is refused at start."""
    (modules / "target_e.py").write_text(CALLABLES)
    with pytest.raises(ConfigError, match=f"target_e:{name} {message}"):
        import_app(f"target_e:{name}", factory=True)


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


ORDERS = policy("orders", "2/day")


def served_with(own: Fleetlimit, fleetlimit: Fleetlimit) -> FastAPI:
    """Return an app with its own `Fleetlimit` behind that of `serve`."""
    app = FastAPI(lifespan=own)
    app.add_api_route("/", lambda: None, dependencies=[Depends(PolicyLimit("orders"))])
    WrappedApp(app, fleetlimit)
    return app


async def resolve_x_caller(connection: HTTPConnection) -> Principal | None:
    name = connection.headers.get("x-caller")
    return Principal(name) if name else None


class Recorder:
    """Observer that records decisions."""

    def __init__(self) -> None:
        self.decisions: list[Event] = []

    def on_event(self, event: Event) -> None:
        """Record a decision."""
        if isinstance(event, CheckDecided):
            self.decisions.append(event)


@pytest.mark.parametrize("inside", [True, False])
def test_serve_adopts_the_apps_own_fleetlimit(*, inside: bool) -> None:
    """Its resolver and observers apply, and it has the limiter and the metrics of `serve`."""
    recorder = Recorder()
    own = Fleetlimit(policies=PolicySet([ORDERS]), resolver=resolve_x_caller, observers=[recorder])
    fleetlimit = enforced(ORDERS)
    app = served_with(own, fleetlimit)
    if inside:

        @contextlib.asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:
            async with own(app):
                yield

        app.router.lifespan_context = lifespan
    # A second start, as in tests of an app, adds no observer twice.
    for _ in range(2):
        with TestClient(app) as client:
            assert client.get("/").status_code == 200
    with TestClient(app) as client:
        for name in ("ann", "bob"):
            headers = {"x-caller": name}
            assert [client.get("/", headers=headers).status_code for _ in range(3)] == [
                *([200] * 2),
                429,
            ]
    assert (own.limiter, own.metrics) == (fleetlimit.limiter, fleetlimit.metrics)
    assert own.top_denied is fleetlimit.top_denied
    assert len(recorder.decisions) == 8


async def adopted(fleetlimit: Fleetlimit, own: Fleetlimit) -> None:
    """Run the lifespan of an app with its own `Fleetlimit` behind that of `serve`."""
    app = served_with(own, fleetlimit)
    async with app.router.lifespan_context(app):
        pass


ANN = {"type": "http", "headers": [(b"x-caller", b"ann")], "client": ("192.0.2.1", 1)}


async def test_activation_keeps_the_adopted_resolver() -> None:
    """Policies that are activated again, as at a restart, come with the adopted resolver."""
    fleetlimit = enforced(ORDERS)
    fleetlimit.policy_reload.policy_file = PolicyFile(PolicySet([ORDERS]), IdentitySection())
    await adopted(fleetlimit, Fleetlimit(resolver=resolve_x_caller))
    fleetlimit.activate_policies()
    identity = await fleetlimit.http_limiter.identifier.identify(ANN)
    assert identity.principal == Principal("ann")


async def test_resolver_adopted_during_a_reload_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reload whose identifier was built before the adoption builds another one."""
    fleetlimit = Fleetlimit()
    fleetlimit.activate_policies()
    build, adopting = IdentifierBuilder.build, True

    def build_and_adopt(builder: IdentifierBuilder, section: IdentitySection) -> Any:
        nonlocal adopting
        built = build(builder, section)
        if adopting:
            adopting = False
            fleetlimit.adopt(Fleetlimit(resolver=resolve_x_caller)._code_arguments)
        return built

    monkeypatch.setattr(IdentifierBuilder, "build", build_and_adopt)
    await fleetlimit.policy_reload.replace(fleetlimit.policy_file)
    identity = await fleetlimit.http_limiter.identifier.identify(ANN)
    assert identity.principal == Principal("ann")


async def test_reload_keeps_the_adopted_resolver() -> None:
    """A reload of the policy file builds the identity with the resolver of the app."""
    fleetlimit = enforced(ORDERS)
    await adopted(fleetlimit, Fleetlimit(resolver=resolve_x_caller))
    await fleetlimit.policy_reload.replace(PolicyFile(PolicySet([ORDERS]), IdentitySection()))
    identity = await fleetlimit.http_limiter.identifier.identify(ANN)
    assert identity.principal == Principal("ann")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"registry": CollectorRegistry()}, "has its own registry: leave it out"),
        ({"tracer": object(), "clock": ManualClock()}, "has its own tracer, clock: leave it out"),
        ({"store": "redis://elsewhere"}, "set FLEETLIMIT_STORE to the same value"),
        (
            {"settings": Settings(key_prefix="own", min_replicas=2)},
            "set FLEETLIMIT_KEY_PREFIX, FLEETLIMIT_MIN_REPLICAS to the same value",
        ),
        (
            {"policies": PolicySet([policy("orders", "9/day")])},
            "the policies of code .* are not those of `fleetlimit serve`: name their file with",
        ),
    ],
)
def test_argument_that_serve_cannot_adopt_is_an_error(
    arguments: dict[str, Any], message: str
) -> None:
    """What `serve` cannot take over from the app's `Fleetlimit` prevents the start."""
    app = served_with(Fleetlimit(**arguments), enforced(ORDERS))
    with pytest.raises(ConfigError, match=message), TestClient(app):
        pass


@pytest.mark.parametrize("same", [True, False])
def test_policy_file_of_the_app_must_be_that_of_serve(tmp_path: Path, *, same: bool) -> None:
    """A file with another text prevents the start, even with the same policies."""
    text = "version: 1\npolicies: [{name: orders, limits: [{rate: 2/day}]}]\n"
    (tmp_path / "own.yaml").write_text(text if same else f"{text}identity: {{ipv6_prefix: 56}}\n")
    (tmp_path / "serve.yaml").write_text(text)
    fleetlimit = Fleetlimit(policies=tmp_path / "serve.yaml")
    fleetlimit.activate_policies()
    app = served_with(Fleetlimit(policies=tmp_path / "own.yaml"), fleetlimit)
    error = pytest.raises(ConfigError, match=r"policies of .*own\.yaml in the app's Fleetlimit")
    with contextlib.nullcontext() if same else error, TestClient(app) as client:
        assert client.get("/").status_code == 200


def test_middleware_with_another_limiter_is_an_error() -> None:
    """A limiter that the app gives to its middleware is never started under `serve`."""
    app = FastAPI()
    app.add_middleware(RateLimitMiddleware, http_limiter=Fleetlimit().http_limiter)
    with pytest.raises(ConfigError, match="leave http_limiter out of RateLimitMiddleware"):
        WrappedApp(app, enforced(ORDERS))


async def test_second_resolver_is_an_error() -> None:
    """One limiter has one resolver."""
    fleetlimit = enforced(ORDERS)
    await adopted(fleetlimit, Fleetlimit(resolver=resolve_x_caller))

    async def another(_connection: HTTPConnection) -> Principal | None:
        return None

    with pytest.raises(ConfigError, match="two Fleetlimits of the app have a resolver"):
        await adopted(fleetlimit, Fleetlimit(resolver=another))


async def test_exemption_is_adopted_once() -> None:
    """`serve` has one limiter, and so one exemption."""
    fleetlimit = Fleetlimit()
    exemption = Exemption(routes=["/health"])
    for _ in range(2):
        fleetlimit.adopt(Fleetlimit(exempt=exemption)._code_arguments)
    assert fleetlimit.limiter.exemption == exemption
    with pytest.raises(ConfigError, match="use one exemption"):
        fleetlimit.adopt(Fleetlimit(exempt=lambda _connection: True)._code_arguments)
    await fleetlimit.aclose()


def test_serve_adopts_the_function_for_rejections() -> None:
    """Rejections have the app's own format, and a second start changes nothing."""
    own = Fleetlimit(on_rejected=lambda *_: PlainTextResponse("own", 429))
    app = served_with(own, enforced(ORDERS))
    for _ in range(2):
        with TestClient(app) as client:
            texts = [client.get("/").text for _ in range(3)]
    assert texts == ["own"] * 3


async def test_second_function_for_rejections_is_an_error() -> None:
    """One limiter has one format of rejections."""
    fleetlimit = enforced(ORDERS)
    await adopted(fleetlimit, Fleetlimit(use_exception_handlers=True))
    await adopted(fleetlimit, Fleetlimit())
    await adopted(fleetlimit, Fleetlimit(use_exception_handlers=True))
    with pytest.raises(ConfigError, match="answer rejections differently"):
        await adopted(fleetlimit, Fleetlimit(on_rejected=lambda *_: None))


def test_headers_of_the_apps_own_fleetlimit_must_be_those_of_serve() -> None:
    """The format of the app's code would otherwise have no effect."""
    app = served_with(Fleetlimit(headers="github"), enforced(ORDERS))
    with (
        pytest.raises(ConfigError, match="set FLEETLIMIT_HEADERS to the same value"),
        TestClient(app),
    ):
        pass


@pytest.mark.parametrize("openapi", [True, False])
def test_schema_of_a_served_app_states_the_limits(*, openapi: bool) -> None:
    """The policies of `serve` are in the schema, unless the app's own `Fleetlimit` says no."""
    app = served_with(Fleetlimit(openapi=openapi), enforced(ORDERS))
    with TestClient(app) as client:
        schema = client.get("/openapi.json").json()
    assert ("429" in schema["paths"]["/"]["get"]["responses"]) is openapi


@pytest.mark.parametrize("middleware", [True, False])
def test_wrapped_app_inside_another_asgi_app_has_one_limiter(*, middleware: bool) -> None:
    """The app inside is found, with its routes, and delegates to `serve`."""
    own, fleetlimit = Fleetlimit(), enforced(ORDERS, policy("items", "1/day", "/items/{item_id}"))
    app = FastAPI(lifespan=own)
    if middleware:
        app.add_middleware(RateLimitMiddleware)
    app.add_api_route("/", lambda: None, dependencies=[Depends(PolicyLimit("orders"))])
    app.add_api_route("/items/{item_id}", lambda: None)
    wrapped = WrappedApp(CORSMiddleware(GZipMiddleware(app), allow_origins=["*"]), fleetlimit)
    with TestClient(wrapped.app) as client:
        assert [client.get("/").status_code for _ in range(3)] == [200, 200, 429]
        rejected = [client.get("/items/1", headers={"origin": "https://a.b"}) for _ in range(2)][1]
        assert rejected.status_code == 429
        assert rejected.headers["access-control-allow-origin"] == "*"
    assert own.limiter is fleetlimit.limiter
    assert [each.template for each in wrapped.routes.routes if "items" in each.template] == [
        "/items/{item_id}"
    ]


@pytest.mark.parametrize("opaque", [True, False])
async def test_fleetlimit_started_without_the_served_app_is_an_error(*, opaque: bool) -> None:
    """Its resolver would identify no caller, because the app has the limiter of `serve`."""
    own = Fleetlimit(resolver=resolve_x_caller)

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with own:
            yield

    app = FastAPI(lifespan=lifespan)
    with (
        serving(enforced(), opaque=opaque),
        pytest.raises(
            ConfigError, match=r"without an app, .* write `async with fleetlimit\(app\)`"
        ),
    ):
        async with app.router.lifespan_context(app):
            pass


def test_app_whose_arguments_are_optional_is_no_factory_for_uvicorn() -> None:
    """An app whose call has only optional arguments is served itself, not its result."""

    class Around:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, *arguments: Any) -> None:
            await self.app(*arguments)

    app = FastAPI()
    app.get("/")(lambda: None)
    config = uvicorn.Config(WrappedApp(Around(app), enforced(policy("default", "1/day"))).app)
    config.load()
    assert statuses(config.loaded_app, "/", 2) == [200, 429]


async def test_app_inside_an_opaque_asgi_app_has_one_limiter() -> None:
    """An app that cannot be seen from outside delegates to `serve` when its lifespan runs."""
    own, fleetlimit = Fleetlimit(), enforced(ORDERS)
    app = FastAPI(lifespan=own)
    app.add_api_route("/", lambda: None, dependencies=[Depends(PolicyLimit("orders"))])

    async def around(scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope, receive, send)

    wrapped = WrappedApp(around, fleetlimit)
    assert wrapped.opaque
    with serving(fleetlimit, opaque=True):
        async with app.router.lifespan_context(app):
            assert own.limiter is fleetlimit.limiter
            transport = httpx.ASGITransport(wrapped.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                assert [(await client.get("/")).status_code for _ in range(3)] == [200, 200, 429]


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


def test_span_of_a_wrapped_app_has_the_route_below_the_root_path() -> None:
    """The app sets its `root_path` behind the span's middleware."""
    provider, spans = TracerProvider(shutdown_on_exit=False), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    app = FastAPI()
    app.root_path = "/api"  # newer versions of FastAPI deprecate the argument
    app.add_api_route("/orders/{order_id}", lambda: None)
    wrapped = WrappedApp(GZipMiddleware(app), enforced(policy("default", "9/day")), provider)
    assert statuses(wrapped.app, "/api/orders/1", 1) == [200]
    provider.shutdown()
    assert [span.name for span in spans.get_finished_spans()] == ["GET /orders/{order_id}"]


async def plain_view(_request: object) -> PlainTextResponse:
    return PlainTextResponse("plain")
