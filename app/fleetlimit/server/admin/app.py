"""App of the admin port: its state, its routes and the endpoints of the metrics."""

import asyncio
from collections.abc import Collection
from dataclasses import asdict, dataclass, field

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fleetlimit.bootstrap.fleetlimit import Fleetlimit
from fleetlimit.server.admin import explain, health, policies, reset
from fleetlimit.server.admin.allowed_hosts import AllowedHosts
from fleetlimit.server.admin.health import ReplicaStatus
from fleetlimit.server.admin.problem import http_exception
from fleetlimit.server.admin.token import FailedLogins
from fleetlimit.server.wrap import WrappedApp


@dataclass(slots=True)
class AdminState:
    """State that the endpoints read.

    Args:
        fleetlimit: The limiter.
        wrapped: The limited app.
        token: Bearer token of POST /explain and /reset; None disables them.
        failed_logins: Limit on wrong tokens.
        status: Status of this replica, for readiness.
    """

    fleetlimit: Fleetlimit
    wrapped: WrappedApp
    token: str | None = None
    failed_logins: FailedLogins = field(default_factory=FailedLogins)
    status: ReplicaStatus = ReplicaStatus.STARTING


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


def create_admin_app(state: AdminState, allowed_hosts: Collection[str] = ()) -> Starlette:
    """Create the app of the admin port.

    Args:
        state: State that the endpoints read.
        allowed_hosts: See `AllowedHosts`.
    """
    app = Starlette(
        routes=[
            Route("/metrics", metrics),
            Route("/top", top_denied),
            Route("/livez", health.livez),
            Route("/readyz", health.readyz),
            Route("/policies", policies.list_policies),
            Route("/explain", explain.explain_request, methods=["POST"]),
            Route("/reset", reset.reset, methods=["POST"]),
        ],
        exception_handlers={HTTPException: http_exception},
        middleware=[Middleware(AllowedHosts, hosts=allowed_hosts)],
    )
    app.state.admin = state
    return app
