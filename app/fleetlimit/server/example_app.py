"""Example app: small routes under different policies, to try and to test limits."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request, WebSocket
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.websockets import WebSocketDisconnect

from fleetlimit.bootstrap.explain import identity_to_dict
from fleetlimit.core.subject import Subject
from fleetlimit.web.responses import RATE_LIMIT_RESPONSES
from fleetlimit.web.wiring import get_limiter

STREAM_SECONDS = 0.2

router = APIRouter(responses=RATE_LIMIT_RESPONSES)


class Export(BaseModel):
    """Response of an accepted export."""

    status: str = "queued"


class Item(BaseModel):
    """An item."""

    item_id: int


@router.post("/exports")
async def create_export() -> Export:
    """Queue an export."""
    return Export()


@router.get("/items/{item_id}")
async def read_item(item_id: int) -> Item:
    """Return an item."""
    return Item(item_id=item_id)


@router.get("/stream", response_class=StreamingResponse)
async def stream(lines: int = 10) -> StreamingResponse:
    """Stream lines with a pause after each, at most 1,000."""

    async def produce() -> AsyncIterator[str]:
        for number in range(min(max(lines, 0), 1_000)):
            yield f"line {number}\n"
            await asyncio.sleep(STREAM_SECONDS)

    return StreamingResponse(produce(), media_type="text/plain")


@router.websocket("/ws")
async def echo(socket: WebSocket) -> None:
    """Send each received text back."""
    await socket.accept()
    try:
        while True:
            await socket.send_text(await socket.receive_text())
    except WebSocketDisconnect:
        return


async def describe_caller(request: Request) -> dict[str, Any]:
    """Return the caller's identity in the limiter."""
    http_limiter = get_limiter(request.scope)
    identity = await http_limiter.identifier.identify(request.scope)
    return identity_to_dict(
        identity, http_limiter, Subject(identity.client_address, identity.principal)
    )


@router.get("/whoami")
async def whoami(caller: Annotated[dict[str, Any], Depends(describe_caller)]) -> dict[str, Any]:
    """Return the caller's principal, tier, address and hashed subject."""
    return caller


def create_app() -> FastAPI:
    """Create the example app. It has no limiter of its own: `fleetlimit serve` adds one."""
    app = FastAPI(title="Fleetlimit", description="Example app of Fleetlimit.")
    app.include_router(router)
    return app
