"""Apps whose requests are limited by one policy, on every route."""

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from fleetlimit.web.middleware import RateLimitMiddleware
from support.limiter import rate_policy
from support.web import LimiterBench


async def endpoint() -> None: ...


async def starlette_endpoint(_request: Request) -> PlainTextResponse:
    return PlainTextResponse("")


def limited_bench() -> LimiterBench:
    return LimiterBench(rate_policy("default", "100/minute"))


def limited_client(app: FastAPI, bench: LimiterBench) -> TestClient:
    app.add_middleware(RateLimitMiddleware)
    return TestClient(bench.install(app))
