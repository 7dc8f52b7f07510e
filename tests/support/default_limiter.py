"""An app that uses the dependency alone, and several ways of sending requests to it.

Run as a program it prints the statuses. A connection whose event loop was closed warns when it is
collected, so each way runs in its own process.
"""

import asyncio
import sys

import httpx
from fastapi import Depends, FastAPI
from starlette.testclient import TestClient

from fleetlimit import rate_limit


def app() -> FastAPI:
    """Return the app."""
    app = FastAPI()

    @app.post("/exports", dependencies=[Depends(rate_limit(limit=5, window=60))])
    async def create_export() -> dict[str, str]:
        return {"status": "queued"}

    return app


async def post(app: FastAPI, times: int) -> list[int]:
    """Send several requests at once and return their statuses, sorted."""
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answers = await asyncio.gather(*(client.post("/exports") for _ in range(times)))
        return sorted(answer.status_code for answer in answers)


async def two_apps() -> list[int]:
    """Send requests to two apps, one after the other."""
    return sorted([*await post(app(), 4), *await post(app(), 4)])


def a_loop_for_each_app() -> list[int]:
    """Send requests to two apps, each in its own event loop."""
    return [*asyncio.run(post(app(), 4)), *asyncio.run(post(app(), 4))]


def a_loop_for_each_request() -> list[int]:
    """Send requests to one app as a test client does outside of its context: a loop for each."""
    client = TestClient(app())
    return sorted({client.post("/exports").status_code for _ in range(8)})


if __name__ == "__main__":
    way = sys.argv[1]
    print(asyncio.run(two_apps()) if way == "two_apps" else globals()[way]())  # noqa: T201 - output
