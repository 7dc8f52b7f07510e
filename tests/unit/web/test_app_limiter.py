"""Ways in which the lifespan of an app holds its limiter: each is seen before it has run."""

import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI
from starlette.testclient import TestClient

import fleetlimit
from fleetlimit import ConfigError, Fleetlimit, PolicySet, RateLimit
from fleetlimit import Fleetlimit as Limiter
from support.lifespans import (
    NOT_STARTED,
    BenchLifespan,
    Slots,
    items,
    limited_app,
    make_limiter,
    statuses,
)
from support.web import LimiterBench


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
        self.limiter = indirectly()

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


class Objects:
    """Container with an attribute, a property and a method for its limiter."""

    other = ()

    def __init__(self) -> None:
        self.limiter = make_limiter()

    @property
    def as_property(self) -> Fleetlimit:
        """The limiter."""
        return self.limiter

    def as_method(self) -> Fleetlimit:
        """Return the limiter."""
        return self.limiter


class Provider:
    """Provider of a dependency-injection library, which makes an object when it is called."""

    def __init__(self) -> None:
        self._make = make_limiter

    def __call__(self) -> Fleetlimit:
        """Make the limiter."""
        return self._make()


class Providers:
    """Container of providers."""

    limiter = Provider()


def lifespan_of(get: Callable[[], Fleetlimit]) -> Any:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with get()(app):
            yield

    return lifespan


def by_an_attribute() -> Any:
    objects = Objects()
    return lifespan_of(lambda: objects.limiter)


def by_a_property() -> Any:
    objects = Objects()
    return lifespan_of(lambda: objects.as_property)


def by_a_method_of_an_object() -> Any:
    objects = Objects()
    return lifespan_of(lambda: objects.as_method())  # noqa: PLW0108 - the case


def by_an_object_in_an_object() -> Any:
    outer = SimpleNamespace(inner=SimpleNamespace(limiter=make_limiter()))
    return lifespan_of(lambda: outer.inner.limiter)


def by_a_slot() -> Any:
    objects = Slots()
    return lifespan_of(lambda: objects.limiter)


def by_an_entry() -> Any:
    objects = {"limiter": make_limiter()}
    return lifespan_of(lambda: objects["limiter"])


def by_a_provider() -> Any:
    return lifespan_of(lambda: Providers.limiter())  # noqa: PLW0108 - the case


def by_a_default_argument() -> Any:
    @asynccontextmanager
    async def lifespan(app: FastAPI, limiter: Fleetlimit = make_limiter()) -> AsyncIterator[None]:  # noqa: B008 - the case
        async with limiter(app):
            yield

    return lifespan


@pytest.mark.parametrize(
    "make_lifespan",
    [
        by_an_attribute,
        by_a_property,
        by_a_method_of_an_object,
        by_an_object_in_an_object,
        by_a_slot,
        by_an_entry,
        by_a_provider,
        by_a_default_argument,
    ],
)
def test_lifespan_that_takes_its_limiter_from_a_container_is_seen(
    make_lifespan: Callable[[], Any], opened: list[LimiterBench]
) -> None:
    """Before its lifespan has run, the app gets no default limiter in place of the container's."""
    app = limited_app(make_lifespan())
    with pytest.raises(ConfigError, match=NOT_STARTED):
        TestClient(app).get("/items")
    with TestClient(app) as client:
        assert statuses(client, "/items") == [200, 429]
    assert not opened


def test_lifespan_that_takes_another_object_from_the_container_is_its_own(
    opened: list[LimiterBench],
) -> None:
    """An app that shares a container with the app of the limiter has none of its own."""
    objects, builtin = Objects(), len

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        assert not builtin(objects.other)
        yield

    with TestClient(limited_app(lifespan)) as client:
        assert statuses(client, "/items") == [200, 429]
    assert len(opened) == 1


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
