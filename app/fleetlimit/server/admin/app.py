"""App of the admin port, with its routes and its state."""

from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.routing import Route

from fleetlimit.bootstrap.fleetlimit import Fleetlimit
from fleetlimit.server.admin import health, metrics, policies, reset
from fleetlimit.server.admin.health import ReplicaStatus
from fleetlimit.web.route_table import RouteTable


@dataclass(slots=True)
class AdminState:
    """State that the endpoints read.

    Args:
        fleetlimit: The limiter.
        routes: The routes of the limited app.
        token: Bearer token of POST /reset; None disables it.
        status: Status of this replica, for readiness.
    """

    fleetlimit: Fleetlimit
    routes: RouteTable
    token: str | None = None
    status: ReplicaStatus = ReplicaStatus.STARTING


def create_admin_app(state: AdminState) -> Starlette:
    """Create the app of the admin port."""
    app = Starlette(
        routes=[
            Route("/metrics", metrics.metrics),
            Route("/top", metrics.top_denied),
            Route("/livez", health.livez),
            Route("/readyz", health.readyz),
            Route("/policies", policies.list_policies),
            Route("/explain", policies.explain_request),
            Route("/reset", reset.reset, methods=["POST"]),
        ]
    )
    app.state.admin = state
    return app
