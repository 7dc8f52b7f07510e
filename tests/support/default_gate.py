"""An app that sets up nothing but the dependency, and the ways in which it may be asked.

Run as a program it prints the statuses: an event loop that ends under a connection drops it, and
only the end of a process lets nobody else hear of that.
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
    """Ask so many times at once."""
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answers = await asyncio.gather(*(client.post("/exports") for _ in range(times)))
        return sorted(answer.status_code for answer in answers)


async def two_apps() -> list[int]:
    """Ask two apps, one after the other."""
    return sorted([*await post(app(), 4), *await post(app(), 4)])


def a_loop_for_each_app() -> list[int]:
    """Ask two apps, each in an event loop of its own."""
    return [*asyncio.run(post(app(), 4)), *asyncio.run(post(app(), 4))]


def a_loop_for_each_request() -> list[int]:
    """Ask one app as a test client does outside of its context."""
    client = TestClient(app())
    return sorted({client.post("/exports").status_code for _ in range(8)})


if __name__ == "__main__":
    way = sys.argv[1]
    print(asyncio.run(two_apps()) if way == "two_apps" else globals()[way]())  # noqa: T201 - output
