"""FastAPI dependency for checks of libraries without a FastAPI integration."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from fastapi import Depends, FastAPI, HTTPException, Request, status

from contenders.export import HEADER, Export, Queued, queue

Check = Callable[[str], Awaitable[bool]]
"""Returns whether the caller of this name is admitted."""


def limited(open_check: Callable[[], Awaitable[Check]]) -> FastAPI:
    """Return an app whose route awaits a check. The lifespan of the app opens the check."""
    opened: list[Check] = []

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        opened.append(await open_check())
        yield

    async def limit(request: Request) -> None:
        if not await opened[0](request.headers[HEADER]):
            raise HTTPException(status.HTTP_429_TOO_MANY_REQUESTS, headers={"Retry-After": "1"})

    app = FastAPI(lifespan=lifespan)

    @app.post("/exports", dependencies=[Depends(limit)])
    async def create_export(export: Export) -> Queued:
        """Queue an export."""
        return queue(export)

    return app
