"""Metrics, and who is denied most."""

from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import JSONResponse, Response


async def metrics(request: Request) -> Response:
    """Write out the metrics; with exemplars for a scraper that asks for OpenMetrics."""
    found = request.app.state.admin.fleetlimit.metrics
    body, content_type = found.render(request.headers.get("accept", ""))
    return Response(body, headers={"Content-Type": content_type})


async def top_denied(request: Request) -> Response:
    """List the most denied callers since start, as hashes, with the bound of each count's error."""
    top = request.app.state.admin.fleetlimit.top_denied
    return JSONResponse({"denied": [asdict(each) for each in top.report()]})
