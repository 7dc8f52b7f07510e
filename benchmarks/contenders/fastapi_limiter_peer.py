"""fastapi-limiter 0.1.6, the last version with Redis: a dependency of the route."""

import contextlib
from collections.abc import AsyncIterator

import redis.asyncio
from fastapi import Depends, FastAPI, Request
from fastapi_limiter import FastAPILimiter
from fastapi_limiter.depends import RateLimiter

from contenders.depending import Check
from contenders.export import HEADER, LIMIT, STORE, Export, Queued, queue


async def caller_of(request: Request) -> str:
    """Identify the caller by its API key."""
    return request.headers[HEADER]


limit = RateLimiter(times=LIMIT, minutes=1)


async def open_check() -> Check:
    """Return the check of its dependency."""
    await FastAPILimiter.init(redis.asyncio.Redis.from_url(STORE), identifier=caller_of)

    async def check(caller: str) -> bool:
        # The library has no public check.
        return bool(await limit._check(f"fastapi-limiter:{caller}") == 0)  # noqa: SLF001

    return check


@contextlib.asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Connect to the store."""
    await open_check()
    yield


app = FastAPI(lifespan=lifespan)


@app.post("/exports", dependencies=[Depends(limit)])
async def create_export(export: Export) -> Queued:
    """Queue an export."""
    return queue(export)
