"""Apps with one limited route, and lifespans that install a limiter on them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI
from starlette.testclient import TestClient

from fleetlimit import Fleetlimit, PolicySet, RateLimit
from fleetlimit.web import wiring
from fleetlimit.web.app_limiter import LIMITER_KEY, LimiterLifespan
from fleetlimit.web.http_limiter import HTTPLimiter
from support.web import LimiterBench

NOT_STARTED = "the .* of this app was not started: run the app's lifespan"
"""Error of an app whose lifespan has a limiter and has not run."""


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


def limited_app(lifespan: Any = None, *, rate: str = "1/minute", **options: Any) -> FastAPI:
    """Return an app with one route that has a limit, and nothing else that refers to a limiter.

    Args:
        lifespan: Lifespan of the app.
        rate: The limit.
        options: Further arguments of the app.
    """
    app = FastAPI(lifespan=lifespan, **options)
    app.get("/items", dependencies=[Depends(RateLimit(rate))])(items)
    return app


def statuses(client: TestClient, path: str, times: int = 2) -> list[int]:
    """Return the statuses of the responses to equal requests."""
    return [client.get(path).status_code for _ in range(times)]


def make_limiter() -> Fleetlimit:
    """Return a limiter without policies, not started."""
    return Fleetlimit(policies=PolicySet())


class Slots:
    """Container of a limiter, without a dictionary."""

    __slots__ = ("limiter",)

    def __init__(self) -> None:
        self.limiter = make_limiter()
