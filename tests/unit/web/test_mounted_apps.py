"""Mounted apps: the route that a request is limited under, and the middleware that limits it."""

from pathlib import Path
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, Router
from starlette.staticfiles import StaticFiles
from starlette.testclient import TestClient

from fleetlimit.web.dependency import RateLimit
from fleetlimit.web.middleware import RateLimitMiddleware
from support.one_policy import endpoint, limited_bench, limited_client, starlette_endpoint
from support.web import LimiterBench, parse_limits


def test_routes_of_mounted_apps_have_full_templates(tmp_path: Path) -> None:
    """Routes of mounted apps have full templates, and static files count under their mount."""
    (tmp_path / "logo.txt").write_text("logo")
    inner, outer = FastAPI(), FastAPI()
    inner.get("/items/{id}")(endpoint)
    outer.mount("/tenants/{id}/api", inner)
    outer.mount("/static", StaticFiles(directory=tmp_path))
    bench = limited_bench()
    client = limited_client(outer, bench)
    assert client.get("/tenants/acme/api/items/1").status_code == 200
    assert client.get("/static/logo.txt").text == "logo"
    assert bench.routes == [
        "GET /tenants/{id}/api/items/{id}",
        "ANY /static/{path:path}",
    ]


@pytest.mark.parametrize("middleware", [True, False])
def test_limit_in_a_mounted_app_has_one_bucket(*, middleware: bool) -> None:
    """A limit in a mounted app has one bucket per template, with and without the middleware.

    Otherwise an invented part of the mount's path would select a fresh bucket.
    """
    inner, outer = FastAPI(), FastAPI()
    inner.get("/items", dependencies=[Depends(RateLimit("2/minute"))])(endpoint)
    bench = LimiterBench()
    outer.mount("/{tenant}/api", bench.install(inner))
    if middleware:
        outer.add_middleware(RateLimitMiddleware)
    client = TestClient(bench.install(outer))
    found = [client.get(f"/{tenant}/api/items").status_code for tenant in ("a", "b", "c")]
    assert found == [200, 200, 429]
    assert set(bench.routes) == {"GET /{tenant}/api/items"}


def test_middleware_of_a_mounted_app_uses_full_templates() -> None:
    """The middleware of a mounted app uses the same templates as the outer app's."""
    inner, outer = FastAPI(), FastAPI()
    inner.get("/items")(endpoint)
    inner.add_middleware(RateLimitMiddleware)
    bench = limited_bench()
    outer.mount("/sub", bench.install(inner))
    client = TestClient(outer)
    assert set(parse_limits(client.get("/sub/items"))) == {"default"}
    assert bench.routes == ["GET /sub/items"]


def test_routes_behind_a_mounts_middleware_are_found() -> None:
    """Routes of an app that is mounted with middleware around it are found."""
    inner, outer = FastAPI(), FastAPI()
    inner.get("/one", dependencies=[Depends(RateLimit("1/minute"))])(endpoint)
    inner.get("/two", dependencies=[Depends(RateLimit("1/minute"))])(endpoint)
    outer.mount("/sub", GZipMiddleware(inner))
    outer.router.routes.append(
        Mount(
            "/lib",
            Router([Route("/three", starlette_endpoint)]),
            middleware=[Middleware(GZipMiddleware)],
        )
    )
    bench = limited_bench()
    client = limited_client(outer, bench)
    for path in ("/sub/one", "/sub/two", "/lib/three"):
        assert client.get(path).status_code == 200
    assert bench.routes == ["GET /sub/one", "GET /sub/two", "GET /lib/three"]


def test_opaque_mounted_app_is_one_route() -> None:
    """An app without routes is one route, all its paths together."""

    async def opaque(scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse("")(scope, receive, send)

    app = FastAPI()
    app.mount("/opaque", opaque)
    bench = limited_bench()
    client = limited_client(app, bench)
    client.get("/opaque/1")
    client.post("/opaque/2")
    assert bench.routes == ["ANY /opaque/{path:path}"] * 2
