"""Apps that are mounted: under which of their routes a request is held, and by whose middleware."""

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
from support.held import endpoint, limited_bench, limited_client, starlette_endpoint
from support.web import LimiterBench, parse_limits


def test_mounted_apps_and_static_files(tmp_path: Path) -> None:
    """Routes of mounted apps are known in full, static files under their mount."""
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
def test_dependency_in_a_mounted_app(*, middleware: bool) -> None:
    """A limit in a mounted app has one bucket per template, with and without the middleware.

    A made-up part of the mount's path would otherwise open a fresh bucket.
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


def test_middleware_of_a_mounted_app() -> None:
    """The middleware of a mounted app knows its routes by the same templates as the outer one's."""
    inner, outer = FastAPI(), FastAPI()
    inner.get("/items")(endpoint)
    inner.add_middleware(RateLimitMiddleware)
    bench = limited_bench()
    outer.mount("/sub", bench.install(inner))
    client = TestClient(outer)
    assert set(parse_limits(client.get("/sub/items"))) == {"default"}
    assert bench.routes == ["GET /sub/items"]


def test_mounted_app_behind_middleware_of_its_own() -> None:
    """An app mounted with middleware around it is looked into all the same."""
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


def test_mount_of_something_opaque() -> None:
    """An app that shows no routes is one route, all its paths together."""

    async def opaque(scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse("")(scope, receive, send)

    app = FastAPI()
    app.mount("/opaque", opaque)
    bench = limited_bench()
    client = limited_client(app, bench)
    client.get("/opaque/1")
    client.post("/opaque/2")
    assert bench.routes == ["ANY /opaque/{path:path}"] * 2
