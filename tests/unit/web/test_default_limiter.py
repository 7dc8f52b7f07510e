"""Default limiter of an app: none where the app or the process has another one."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Request
from starlette.testclient import TestClient

from fleetlimit import (
    ConfigError,
    Fleetlimit,
    Limiter,
    Policy,
    PolicySet,
    RateLimitMiddleware,
)
from fleetlimit.web.code_search import MAX_ENTRIES
from support.lifespans import Slots, limited_app, make_limiter, statuses
from support.web import LimiterBench

STARTED = (
    r"Fleetlimit\(store='memory://', policies='0 in code'\) was started without an app: write `a"
)
NAMED = "no limiter, and its routes refer to .*: write `async with fleetlimit"


def test_dependency_alone_opens_the_default_limiter_once(opened: list[LimiterBench]) -> None:
    """An app that never mentions `Fleetlimit` gets one limiter, from the environment."""
    assert statuses(TestClient(limited_app()), "/items") == [200, 429]
    assert len(opened) == 1


class Container:
    """Container whose objects no search of code can see."""

    def __init__(self, make_object: Callable[[], Any] = make_limiter) -> None:
        self._objects: list[Any] = []
        self._make_object = make_object

    def __getitem__(self, name: str) -> Any:
        if not self._objects:
            self._objects.append(self._make_object())
        return self._objects[0]


class Rows:
    """Endpoint or lifespan with more objects than a search looks at."""

    def __init__(self) -> None:
        self.rows = dict.fromkeys(range(MAX_ENTRIES + 1))

    async def __call__(self, _request: Request) -> int:
        """Answer a request."""
        return len(self.rows)

    @asynccontextmanager
    async def lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        """Start and stop nothing."""
        yield


@pytest.mark.parametrize("part", ["route", "lifespan", "neither"])
def test_search_that_was_cut_off_is_a_warning(
    opened: list[LimiterBench], log: pytest.LogCaptureFixture, part: str
) -> None:
    """An app gets its default limiter after a search of a part of its objects, with a warning."""
    app = limited_app(Rows().lifespan if part == "lifespan" else None)
    if part == "route":
        app.get("/rows")(Rows())
    with TestClient(app) as client:
        assert statuses(client, "/items") == [200, 429]
    assert len(opened) == 1
    lines = [each for each in log.messages if each.startswith("limiter.search_cut_off ")]
    assert len(lines) == (part != "neither")


@pytest.mark.parametrize("large", [True, False])
def test_mounted_app_whose_search_was_cut_off_is_a_warning(
    log: pytest.LogCaptureFixture, *, large: bool
) -> None:
    """A mounted app gets the limiter of the app around it after a search of its lifespan."""
    outer = FastAPI(lifespan=make_limiter())
    outer.mount("/rows", FastAPI(lifespan=Rows().lifespan if large else None))
    with TestClient(outer):
        pass
    lines = [each for each in log.messages if each.startswith("limiter.search_cut_off ")]
    assert len(lines) == large


def test_limiter_that_was_started_without_its_app_is_an_error(opened: list[LimiterBench]) -> None:
    """`async with limiter` runs it, and `async with limiter(app)` also makes it the app's."""
    container = Container()

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with container["limiter"]:
            yield

    with TestClient(limited_app(lifespan)) as client:
        for _ in range(2):
            with pytest.raises(ConfigError, match=STARTED):
                client.get("/items")
    assert not opened


async def test_limiter_started_after_the_default_one_is_an_error(
    opened: list[LimiterBench],
) -> None:
    """The requests while a limiter runs without an app are errors; the default one is kept."""
    app = limited_app()
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://test"
    ) as client:
        assert (await client.get("/items")).status_code == 200
        async with make_limiter():
            with pytest.raises(ConfigError, match=STARTED):
                await client.get("/items")
        assert (await client.get("/items")).status_code == 429
    assert len(opened) == 1


async def test_limiters_of_other_apps_leave_the_default_one(opened: list[LimiterBench]) -> None:
    """A limiter of another app or of a middleware is no error, nor one that was not started."""
    other, given, held = make_limiter(), make_limiter(), make_limiter()
    RateLimitMiddleware(FastAPI(), http_limiter=given.http_limiter)
    app = limited_app()
    async with given, other(limited_app(other)):
        assert statuses(TestClient(app), "/items") == [200, 429]
    assert held
    assert len(opened) == 1


def test_limiter_in_the_state_of_the_app_is_an_error(opened: list[LimiterBench]) -> None:
    """The limiter of slowapi is there."""
    app = limited_app()
    app.state.limiter = make_limiter()
    with pytest.raises(
        ConfigError, match=r"app\.state\.limiter = Fleet.* has no effect: write `async"
    ):
        TestClient(app).get("/items")
    assert not opened


def test_limiter_that_was_not_started_is_a_warning(
    opened: list[LimiterBench], log: pytest.LogCaptureFixture
) -> None:
    """The app without a limiter may be another one than that for which it was made."""
    held = Fleetlimit(policies=PolicySet([Policy(each, "1/day") for each in "abc"]))
    other = Fleetlimit(policies=PolicySet([Policy(each, "1/day") for each in "abcd"]))
    app = limited_app()
    with TestClient(limited_app(other)):
        assert statuses(TestClient(app), "/items") == [200, 429]
    statuses(TestClient(app), "/items")
    [line] = [each for each in log.messages if each.startswith("limiter.not_used ")]
    # Those of other tests may not be collected yet.
    assert repr(held) in line
    assert repr(other) not in line
    assert "if the app needs one of them, write `async with fleetlimit(app)`" in line
    assert len(opened) == 1


def a_lambda() -> FastAPI:
    fleetlimit = make_limiter()
    return limited_app(dependencies=[Depends(lambda: fleetlimit)])


def a_lambda_of_its_limiter() -> FastAPI:
    limiter = make_limiter().limiter
    return limited_app(dependencies=[Depends(lambda: limiter)])


def a_closure() -> FastAPI:
    limiter = make_limiter().http_limiter

    def get() -> Any:
        return limiter

    def dependency(found: Annotated[Any, Depends(get)]) -> Any:
        return found

    return limited_app(dependencies=[Depends(dependency)])


def a_partial_function() -> FastAPI:
    def get(limiter: Any) -> Any:
        return limiter

    return limited_app(dependencies=[Depends(partial(get, make_limiter().limiter))])


def make_holder() -> Any:
    """Return a class that has a limiter and gives it to requests."""

    class Holder:
        limiter = make_limiter().limiter

        def get(self) -> Any:
            return self.limiter

        @classmethod
        def get_of_class(cls) -> Any:
            return cls.limiter

        __call__ = get

    return Holder


def a_class_attribute() -> FastAPI:
    return limited_app(dependencies=[Depends(make_holder()().get)])


def a_class_method() -> FastAPI:
    return limited_app(dependencies=[Depends(make_holder().get_of_class)])


def a_callable_object() -> FastAPI:
    return limited_app(dependencies=[Depends(make_holder()())])


def an_attribute_of_a_class_it_names() -> FastAPI:
    holder = make_holder()
    return limited_app(dependencies=[Depends(lambda: holder.limiter)])


class CallableSlots(Slots):
    """The same, as a dependency."""

    __slots__ = ()

    def __call__(self) -> Any:
        """Return the limiter."""
        return self.limiter


def an_object_with_slots() -> FastAPI:
    return limited_app(dependencies=[Depends(CallableSlots())])


def a_collection() -> FastAPI:
    found = {"limiters": {"main": make_limiter().limiter}}
    return limited_app(dependencies=[Depends(lambda: found["limiters"]["main"])])


def one_for_each_request() -> FastAPI:
    async def get() -> AsyncIterator[Limiter]:
        async with Fleetlimit(policies=PolicySet()) as fleetlimit:
            yield fleetlimit.limiter

    return limited_app(dependencies=[Depends(get)])


def one_made_by_a_function_of_the_app() -> FastAPI:
    return limited_app(dependencies=[Depends(make_limiter)])


def an_annotation() -> FastAPI:
    def get() -> None: ...

    async def check(limiter: Annotated[Limiter, Depends(get)]) -> None: ...

    return limited_app(dependencies=[Depends(check)])


def an_endpoint() -> FastAPI:
    fleetlimit, app = make_limiter(), limited_app()

    async def check() -> None:
        await fleetlimit.limiter.check()

    app.post("/checks")(check)
    return app


def a_default_argument() -> FastAPI:
    app = limited_app()

    async def check(request: Request, limiter: Any = Depends(make_limiter)) -> None: ...  # noqa: B008 - the case

    app.post("/checks")(check)
    return app


def an_override_of_a_dependency() -> FastAPI:
    def get() -> None: ...

    app = limited_app(dependencies=[Depends(get)])
    app.dependency_overrides[get] = make_limiter
    return app


def a_mounted_app() -> FastAPI:
    outer = limited_app()
    outer.mount("/sub", an_endpoint())
    return outer


@pytest.mark.parametrize(
    "make_app",
    [
        a_lambda,
        a_lambda_of_its_limiter,
        a_closure,
        a_partial_function,
        a_class_attribute,
        a_class_method,
        a_callable_object,
        an_attribute_of_a_class_it_names,
        an_object_with_slots,
        a_collection,
        one_for_each_request,
        one_made_by_a_function_of_the_app,
        an_annotation,
        an_endpoint,
        a_default_argument,
        an_override_of_a_dependency,
        a_mounted_app,
    ],
)
def test_limiter_that_code_of_the_app_refers_to_is_an_error(
    make_app: Callable[[], FastAPI], opened: list[LimiterBench]
) -> None:
    """The first request is an error, whichever way the app's dependencies reach the limiter."""
    app = make_app()
    with pytest.raises(ConfigError, match=f"{NAMED}|{STARTED}"):
        TestClient(app).get("/items")
    assert not opened
