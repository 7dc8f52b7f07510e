"""fastapi-redis-sdk: a dependency of the route. On Valkey the SDK counts by a Lua script."""

import os

from fastapi import Depends, FastAPI, Request

from contenders.export import HEADER, LIMIT, STORE, Export, Queued, queue

os.environ["REDIS_URL"] = STORE

from redis.asyncio import Redis
from redis_fastapi import FastAPIRedis, rate_limit
from redis_fastapi.ratelimit_backend import RateLimitBackend

from contenders.depending import Check


def caller_of(request: Request) -> str:
    """Identify the caller by its API key."""
    return request.headers[HEADER]


app = FastAPI()
FastAPIRedis(app).lifespan().rate_limiting()


@app.post("/exports", dependencies=[Depends(rate_limit(f"{LIMIT}/minute", identifier=caller_of))])
async def create_export(export: Export) -> Queued:
    """Queue an export."""
    return queue(export)


async def open_check() -> Check:
    """Return the check of its dependency."""
    backend = RateLimitBackend(Redis.from_url(STORE), scope="/exports")

    async def check(caller: str) -> bool:
        return bool((await backend.hit(caller, limit=LIMIT, window=60)).allowed)

    return check
