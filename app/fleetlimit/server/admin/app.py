"""The admin port: metrics, health and administration, never limited."""

from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.routing import Route

from fleetlimit.bootstrap.fleetlimit import Fleetlimit
from fleetlimit.server.admin import health, metrics, policies
from fleetlimit.server.admin.health import Status
from fleetlimit.web.route_table import RouteTable


@dataclass(slots=True)
class Admin:
    """What the admin port tells of.

    Args:
        fleetlimit: The limiter.
        routes: The routes of the app that it limits.
        status: Whether this replica takes requests yet, or still.
    """

    fleetlimit: Fleetlimit
    routes: RouteTable
    status: Status = Status.STARTING


def create_admin(admin: Admin) -> Starlette:
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
    app.state.admin = admin
    return app
