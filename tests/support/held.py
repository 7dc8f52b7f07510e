"""Apps whose requests are held by one policy, whatever their route."""

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from fleetlimit.web.middleware import RateLimitMiddleware
from support.web import GateBench, rate


async def endpoint() -> None: ...


async def starlette_endpoint(_request: Request) -> PlainTextResponse:
    return PlainTextResponse("")


def held_bench() -> GateBench:
    return GateBench(rate("default", "100/minute"))


def held(app: FastAPI, bench: GateBench) -> TestClient:
    app.add_middleware(RateLimitMiddleware)
    return TestClient(bench.serve(app))
