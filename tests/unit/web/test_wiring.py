"""Limiter of an app: installed by its lifespan, and that of the nearest app for each request."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Mount, Router
from starlette.testclient import TestClient

from fleetlimit import ConfigError, Fleetlimit, PolicySet
from fleetlimit.core.policy import Match
from fleetlimit.web.dependency import PolicyLimit
from fleetlimit.web.middleware import RateLimitMiddleware
from support.lifespans import NOT_STARTED, BenchLifespan, items, limited_app, statuses
from support.limiter import rate_policy
from support.web import LimiterBench, parse_limits


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
