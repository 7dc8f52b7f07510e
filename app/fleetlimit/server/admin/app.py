"""The admin port: metrics, health and administration, never limited."""

from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.routing import Route

from fleetlimit.bootstrap.fleetlimit import Fleetlimit
from fleetlimit.server.admin import health, metrics, policies
from fleetlimit.server.admin.health import ReplicaStatus
from fleetlimit.web.route_table import RouteTable


@dataclass(slots=True)
class AdminState:
    """What the admin port tells of.

    Args:
        fleetlimit: The limiter.
        routes: The routes of the app that it limits.
        status: Whether this replica takes requests yet, or still.
    """

    fleetlimit: Fleetlimit
    routes: RouteTable
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
            Route("/reset", policies.reset, methods=["POST"]),
        ]
    )
    app.state.admin = state
    return app
