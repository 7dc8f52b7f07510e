"""Endpoints for the Prometheus metrics and the most denied callers."""

import asyncio
from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import JSONResponse, Response


async def metrics(request: Request) -> Response:
    """Return the metrics, with exemplars if the scraper accepts OpenMetrics."""
    found = request.app.state.admin.fleetlimit.metrics
    # In a thread: a scrape takes some 10 ms per 1,000 lines, in which no request would be served.
    body, content_type = await asyncio.to_thread(found.render, request.headers.get("accept", ""))
    return Response(body, headers={"Content-Type": content_type})


async def top_denied(request: Request) -> Response:
    """List the most denied callers since start: hashed subjects, counts and error bounds."""
    top = request.app.state.admin.fleetlimit.top_denied
    return JSONResponse({"denied": [asdict(each) for each in top.report()]})
