"""Limiter of an app: the nearest app's own, a default for the dependency alone, or an error."""

import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Mount, Router
from starlette.testclient import TestClient

import fleetlimit
from fleetlimit import Fleetlimit, PolicySet
from fleetlimit import Fleetlimit as Limiter
from fleetlimit.core.policy import Match
from fleetlimit.errors import ConfigError
from fleetlimit.web import wiring
from fleetlimit.web.app_limiter import LIMITER_KEY, LimiterLifespan
from fleetlimit.web.dependency import PolicyLimit, RateLimit
from fleetlimit.web.http_limiter import HTTPLimiter
from fleetlimit.web.middleware import RateLimitMiddleware
from support.limiter import rate_policy
from support.web import LimiterBench, parse_limits

NOT_STARTED = "the .* of this app was not started: run the app's lifespan"


class BenchLifespan(LimiterLifespan):
    """Lifespan that installs the limiter of a bench, as `Fleetlimit` does its own."""

    def __init__(self, bench: LimiterBench) -> None:
        self.http_limiter = bench.http_limiter

    @asynccontextmanager
    async def __call__(self, app: FastAPI) -> AsyncIterator[dict[str, HTTPLimiter]]:
        """Install the limiter for as long as the app is served."""
        wiring.install(app, self.http_limiter)
        yield {LIMITER_KEY: self.http_limiter}
        wiring.uninstall(app, self.http_limiter)


async def items() -> None: ...


def limited_app(lifespan: Any = None, *, rate: str = "1/minute") -> FastAPI:
    """Return an app with one route that has a limit."""
    app = FastAPI(lifespan=lifespan)
    app.get("/items", dependencies=[Depends(RateLimit(rate))])(items)
    return app


def statuses(client: TestClient, path: str, times: int = 2) -> list[int]:
    return [client.get(path).status_code for _ in range(times)]


def test_dependency_alone_opens_the_default_limiter_once(opened: list[LimiterBench]) -> None:
    """An app that never mentions `Fleetlimit` gets one limiter, from the environment."""
    assert statuses(TestClient(limited_app()), "/items") == [200, 429]
    assert len(opened) == 1


def test_middleware_without_a_limiter_is_an_error() -> None:
    """The middleware never falls back to a default; the error says what to write."""
    app = FastAPI()
    app.add_middleware(RateLimitMiddleware)
    with pytest.raises(ConfigError, match=r"write FastAPI\(lifespan=Fleetlimit\(policies="):
        TestClient(app).get("/")


def test_middleware_around_a_plain_app_needs_a_limiter() -> None:
    """An app that has no lifespan of Starlette's is given its limiter as an argument."""

    async def plain(scope: Any, receive: Any, send: Any) -> None: ...

    with pytest.raises(ConfigError, match=r"RateLimitMiddleware\(app, http_limiter="):
        TestClient(RateLimitMiddleware(plain)).get("/")


@pytest.mark.parametrize("middleware", [True, False])
def test_limiter_that_was_not_started_is_an_error(
    opened: list[LimiterBench], *, middleware: bool
) -> None:
    """Without its lifespan an app with a `Fleetlimit` limits nothing in silence."""
    app = limited_app(BenchLifespan(LimiterBench()))
    if middleware:
        app.add_middleware(RateLimitMiddleware)
    with pytest.raises(ConfigError, match=NOT_STARTED):
        TestClient(app).get("/items")
    assert not opened


def fleetlimit_as_lifespan() -> FastAPI:
    return limited_app(Fleetlimit(policies=PolicySet()))


def with_an_included_router() -> FastAPI:
    app = fleetlimit_as_lifespan()
    # FastAPI then wraps the lifespans of app and router into one function.
    app.include_router(APIRouter())
    return app


def in_a_lifespan_of_the_app() -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with Fleetlimit(policies=PolicySet())(app):
            yield

    return limited_app(lifespan)


def by_another_name() -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with Limiter(policies=PolicySet())(app):
            yield

    return limited_app(lifespan)


def as_an_attribute_of_the_package() -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with fleetlimit.Fleetlimit(policies=PolicySet())(app):
            yield

    return limited_app(lifespan)


def as_an_attribute_of_a_module() -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with fleetlimit.bootstrap.fleetlimit.Fleetlimit(policies=PolicySet())(app):
            yield

    return limited_app(lifespan)


def by_an_import_in_the_lifespan() -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        from fleetlimit import Fleetlimit as Local  # noqa: PLC0415 - the case of this test

        async with Local(policies=PolicySet())(app):
            yield

    return limited_app(lifespan)


def by_an_import_around_the_lifespan() -> FastAPI:
    import fleetlimit as package  # noqa: PLC0415 - the case of this test

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with package.Fleetlimit(policies=PolicySet())(app):
            yield

    return limited_app(lifespan)


def in_an_enclosing_variable() -> FastAPI:
    limiter = Fleetlimit(policies=PolicySet())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with limiter(app):
            yield

    return limited_app(lifespan)


def make_limiter() -> Fleetlimit:
    return Fleetlimit(policies=PolicySet())


def indirectly() -> Fleetlimit:
    return make_limiter()


def by_a_function_of_the_app() -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with indirectly()(app):
            yield

    return limited_app(lifespan)


class Resources:
    """Resources of an app, its limiter among them."""

    def __init__(self) -> None:
        self.limiter = make_limiter()

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Run the limiter."""
        async with self.limiter(app):
            yield

    __call__ = lifespan


def by_a_class_of_the_app() -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with Resources().limiter(app):
            yield

    return limited_app(lifespan)


def by_a_method() -> FastAPI:
    return limited_app(Resources().lifespan)


def by_a_callable_object() -> FastAPI:
    return limited_app(Resources())


def by_a_partial_function() -> FastAPI:
    @asynccontextmanager
    async def lifespan(limiter: Any, app: FastAPI) -> AsyncIterator[None]:
        async with limiter(app):
            yield

    return limited_app(partial(lifespan, make_limiter()))


def by_a_startup_handler() -> FastAPI:
    limiter = make_limiter()

    async def start() -> None:
        await limiter.start()
        limiter.install(app)

    with warnings.catch_warnings():
        # Starlette before 1.0 announces that it will drop them.
        warnings.simplefilter("ignore", DeprecationWarning)
        app = FastAPI(on_startup=[start], on_shutdown=[limiter.aclose])
    app.get("/items", dependencies=[Depends(RateLimit("1/minute"))])(items)
    return app


MODULE_LIMITER = BenchLifespan(LimiterBench())


def in_a_variable_of_the_module() -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with MODULE_LIMITER(app):
            yield

    return limited_app(lifespan)


@pytest.mark.parametrize(
    "make_app",
    [
        in_a_variable_of_the_module,
        fleetlimit_as_lifespan,
        with_an_included_router,
        in_a_lifespan_of_the_app,
        by_another_name,
        as_an_attribute_of_the_package,
        as_an_attribute_of_a_module,
        by_an_import_in_the_lifespan,
        by_an_import_around_the_lifespan,
        in_an_enclosing_variable,
        by_a_function_of_the_app,
        by_a_class_of_the_app,
        by_a_method,
        by_a_callable_object,
        by_a_partial_function,
        by_a_startup_handler,
    ],
)
def test_default_limiter_never_replaces_a_fleetlimit(
    make_app: Callable[[], FastAPI], opened: list[LimiterBench]
) -> None:
    """Every way to set up `Fleetlimit` is seen before its lifespan has run."""
    app = make_app()
    with pytest.raises(ConfigError, match=NOT_STARTED):
        TestClient(app).get("/items")
    with TestClient(app) as client:
        assert statuses(client, "/items") == [200, 429]
    assert not opened


@pytest.mark.parametrize("middleware", [True, False])
def test_error_names_the_fleetlimit_that_was_not_started(
    tmp_path: Path, *, middleware: bool
) -> None:
    """The error has the policy file of the `Fleetlimit`, and the way to start it."""
    path = tmp_path / "policies.yaml"
    path.write_text("version: 1\npolicies: [{name: default, limits: [{rate: 2/minute}]}]\n")
    app = limited_app(Fleetlimit(policies=path))
    if middleware:
        app.add_middleware(RateLimitMiddleware)
    with pytest.raises(ConfigError, match=r"policies='.*policies\.yaml'\) of this app was not st"):
        TestClient(app).get("/items")


def test_limiter_of_an_argument_that_was_not_started_is_an_error() -> None:
    """A middleware that is given a limiter without its lifespan never lets requests through."""
    policies = PolicySet([rate_policy("default", "2/minute")])
    fleetlimit = Fleetlimit(policies=policies)
    app = RateLimitMiddleware(FastAPI(), http_limiter=fleetlimit.http_limiter)
    inner = FastAPI()
    inner.add_middleware(RateLimitMiddleware, http_limiter=fleetlimit.http_limiter)
    for each in (app, inner):
        with pytest.raises(
            ConfigError, match=r"policies='1 in code'\) was not started: run the app's lifespan"
        ):
            TestClient(each).get("/")
    fleetlimit.activate_policies()
    assert statuses(TestClient(app), "/", 3) == [404, 404, 429]


def test_middleware_around_a_plain_app_applies_policies_by_their_templates() -> None:
    """Without the app's routes, those that the policies name are the routes."""

    async def plain(scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse("served")(scope, receive, send)

    fleetlimit = Fleetlimit(
        policies=PolicySet(
            [
                rate_policy("items", "1/minute", match=Match(routes=("/items/{item_id}",))),
                rate_policy("default", "2/minute"),
            ]
        )
    )
    client = TestClient(RateLimitMiddleware(plain, http_limiter=fleetlimit.http_limiter))
    with pytest.raises(ConfigError, match="was not started"):
        client.get("/")
    fleetlimit.activate_policies()
    assert [client.get(f"/items/{x}").status_code for x in range(2)] == [200, 429]
    assert statuses(client, "/other", 3) == [200, 200, 429]


def test_default_limiter_where_the_lifespan_has_no_limiter(opened: list[LimiterBench]) -> None:
    """A lifespan for something else leaves the app with the default limiter."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        assert callable(lifespan), "a function may refer to itself"
        yield

    app = limited_app(lifespan)
    app.include_router(APIRouter())
    with TestClient(app) as client:
        assert statuses(client, "/items") == [200, 429]
    assert len(opened) == 1


def test_foreign_object_named_fleetlimit_is_no_limiter(opened: list[LimiterBench]) -> None:
    """The class itself counts, not its name."""
    foreign = SimpleNamespace(Fleetlimit=nullcontext)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        with foreign.Fleetlimit():
            yield

    with TestClient(limited_app(lifespan)) as client:
        assert statuses(client, "/items") == [200, 429]
    assert len(opened) == 1


def test_limiter_is_uninstalled_after_the_lifespan() -> None:
    """No request reaches a limiter that was closed, in the app or a mounted one."""
    app, inner = limited_app(BenchLifespan(LimiterBench())), limited_app()
    app.mount("/sub", inner)
    with TestClient(app) as client:
        assert client.get("/items").status_code == client.get("/sub/items").status_code == 200
    for path in ("/items", "/sub/items"):
        with pytest.raises(ConfigError, match=NOT_STARTED):
            TestClient(app).get(path)


def test_lifespan_state_reaches_apps_mounted_later(opened: list[LimiterBench]) -> None:
    """An app that is mounted while its outer app is served has the outer app's limiter."""
    app = limited_app(BenchLifespan(LimiterBench()))
    with TestClient(app) as client:
        app.mount("/late", limited_app())
        assert statuses(client, "/late/items") == [200, 429]
    assert not opened


def mount(outer: FastAPI, inner: FastAPI) -> None:
    outer.mount("/sub", inner)


def mount_behind_middleware(outer: FastAPI, inner: FastAPI) -> None:
    outer.mount("/sub", GZipMiddleware(inner))


def mount_in_a_router(outer: FastAPI, inner: FastAPI) -> None:
    outer.mount("/", Router([Mount("/sub", inner)]))


def mount_by_host(outer: FastAPI, inner: FastAPI) -> None:
    outer.router.routes.append(Host("testserver", Router([Mount("/sub", inner)])))


mounts = pytest.mark.parametrize(
    "mount_app", [mount, mount_behind_middleware, mount_in_a_router, mount_by_host]
)


@mounts
def test_mounted_app_uses_the_limiter_of_the_app_around_it(
    mount_app: Callable[[FastAPI, FastAPI], None], opened: list[LimiterBench]
) -> None:
    """A mounted app without a `Fleetlimit` shares its outer app's, however it is mounted."""
    bench = LimiterBench(rate_policy("shared", "1/minute"))
    outer, inner = FastAPI(), FastAPI()
    inner.get("/items", dependencies=[Depends(PolicyLimit("shared"))])(items)
    mount_app(outer, inner)
    bench.install(outer)
    assert statuses(TestClient(outer), "/sub/items") == [200, 429]
    assert not opened


@mounts
def test_mounted_app_keeps_its_own_limiter(
    mount_app: Callable[[FastAPI, FastAPI], None],
) -> None:
    """The nearest app's limiter decides, whichever of the two was started first."""
    near, far = LimiterBench(), LimiterBench()
    for order in ((near, far), (far, near)):
        outer, inner = FastAPI(), limited_app()
        mount_app(outer, inner)
        for bench in order:
            bench.install(inner if bench is near else outer)
        TestClient(outer).get("/sub/items")
    assert (near.store.acquire_calls, far.store.acquire_calls) == (2, 0)


def test_mounted_app_whose_limiter_was_not_started_is_an_error() -> None:
    """An outer app's limiter never replaces the one of a mounted app that was not started."""
    outer = FastAPI(lifespan=BenchLifespan(LimiterBench()))
    outer.mount("/sub", limited_app(BenchLifespan(LimiterBench())))
    with (
        TestClient(outer) as client,
        pytest.raises(ConfigError, match=r"`async with fleetlimit\(mounted_app\)`"),
    ):
        client.get("/sub/items")


@pytest.mark.parametrize(
    "make_inner", [by_a_function_of_the_app, by_a_method, by_a_startup_handler]
)
def test_outer_lifespan_state_never_hides_a_mounted_apps_limiter(
    make_inner: Callable[[], FastAPI],
) -> None:
    """A mounted app whose `Fleetlimit` is hard to see does not get the outer app's in its place."""
    outer = FastAPI(lifespan=Fleetlimit(policies=PolicySet()))
    outer.mount("/sub", make_inner())
    with TestClient(outer) as client:
        outer.mount("/late", make_inner())
        for path in ("/sub/items", "/late/items"):
            with pytest.raises(ConfigError, match=NOT_STARTED):
                client.get(path)


def test_outer_middleware_leaves_limits_of_a_mounted_app_to_its_limiter() -> None:
    """Policies of the outer app apply to a mounted app's routes, their own limits do not."""
    near, far = LimiterBench(), LimiterBench(rate_policy("default", "9/minute"))
    outer, inner = FastAPI(), limited_app()
    outer.mount("/sub", near.install(inner))
    outer.add_middleware(RateLimitMiddleware)
    client = TestClient(far.install(outer))
    response = client.get("/sub/items")
    assert set(parse_limits(response)) == {"default"}
    assert client.get("/sub/items").json()["violated-policies"] == ["1/60s"]
    assert (near.routes, far.routes) == (["GET /sub/items"] * 2, ["GET /sub/items"] * 2)


def test_fleetlimit_resolves_policies_of_mounted_apps_by_their_own_limiter() -> None:
    """At start an app resolves no policy that belongs to a mounted app's limiter."""
    near = LimiterBench(rate_policy("near", "1/minute"))
    inner = FastAPI(lifespan=BenchLifespan(near))
    inner.get("/items", dependencies=[Depends(PolicyLimit("near"))])(items)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with Fleetlimit(policies=PolicySet())(app), BenchLifespan(near)(inner):
            yield

    outer = FastAPI(lifespan=lifespan)
    outer.mount("/sub", inner)
    with TestClient(outer) as client:
        assert statuses(client, "/sub/items") == [200, 429]


def in_one_lifespan(first: Fleetlimit, second: Fleetlimit) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with first(app), second(app):
            yield

    return FastAPI(lifespan=lifespan)


def of_an_app_and_its_router(first: Fleetlimit, second: Fleetlimit) -> FastAPI:
    app = FastAPI(lifespan=first)
    app.include_router(APIRouter(lifespan=second))
    return app


@pytest.mark.parametrize("make_app", [in_one_lifespan, of_an_app_and_its_router])
def test_second_limiter_of_one_app_prevents_the_start(
    make_app: Callable[[Fleetlimit, Fleetlimit], FastAPI],
) -> None:
    """The policies of the first one would not apply, without a word; a later start works."""
    first = Fleetlimit(policies=PolicySet([rate_policy("default", "1/minute")]))
    app = make_app(first, Fleetlimit())
    app.add_middleware(RateLimitMiddleware)
    with pytest.raises(ConfigError, match="this app has a Fleetlimit already"), TestClient(app):
        pass
    app.router.lifespan_context = first
    with TestClient(app) as client:
        assert statuses(client, "/items") == [404, 429]
