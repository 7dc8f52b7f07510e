"""Uploads, events and the chat."""

from collections.abc import AsyncIterator

from fastapi import APIRouter, HTTPException, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse

from fleetlimit import DepCaller, RateLimitExceeded
from shop.accounts import CurrentUser

MAX_UPLOAD_BYTES = 1_000_000
EVENTS = 3
router = APIRouter(prefix="/v1")


@router.put("/uploads/{name}", status_code=201)
async def upload(name: str, user: CurrentUser, request: Request) -> dict[str, int | str]:
    """Accept a file. The policy limits its rate and the uploads in progress."""
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_UPLOAD_BYTES:
            raise HTTPException(413, f"a file has at most {MAX_UPLOAD_BYTES} bytes")
    return {"name": name, "owner": user.name, "bytes": size}


@router.get("/events")
async def events(user: CurrentUser) -> StreamingResponse:
    """Stream server-sent events. A user has one stream at a time."""

    async def stream() -> AsyncIterator[str]:
        for number in range(EVENTS):
            yield f"data: {number} for {user.name}\n\n"

    return StreamingResponse(stream(), media_type="text/event-stream")


@router.websocket("/chat")
async def chat(websocket: WebSocket, user: CurrentUser, caller: DepCaller) -> None:
    """Repeat messages. Each message is checked, and one above the limit is not repeated."""
    await websocket.accept()
    try:
        while True:
            text = await websocket.receive_text()
            try:
                await caller.check("messages")
            except RateLimitExceeded as error:
                retry_after = (error.headers or {}).get("Retry-After", "1")
                await websocket.send_json({"error": "too fast", "retry_after": int(retry_after)})
            else:
                await websocket.send_json({"from": user.name, "text": text})
    except WebSocketDisconnect:
        return
