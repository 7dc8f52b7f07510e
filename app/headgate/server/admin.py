"""The admin port: metrics, health and administration, never limited."""

from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.routing import Route

from headgate.server.headgate import Headgate
from headgate.server.routes import health, policies, telemetry
from headgate.server.routes.health import Status
from headgate.web.routes import RouteTable


@dataclass(slots=True)
class Admin:
    """What the admin port tells of.

    Args:
        headgate: The limiter.
        routes: The routes of the app that it limits.
        status: Whether this replica takes requests yet, or still.
    """

    headgate: Headgate
    routes: RouteTable
    status: Status = Status.STARTING


def create_admin(admin: Admin) -> Starlette:
    """Create the app of the admin port."""
    app = Starlette(
        routes=[
            Route("/metrics", telemetry.metrics),
            Route("/top", telemetry.top_denied),
            Route("/livez", health.livez),
            Route("/readyz", health.readyz),
            Route("/policies", policies.list_policies),
            Route("/explain", policies.explain_request),
            Route("/reset", policies.reset, methods=["POST"]),
        ]
    )
    app.state.admin = admin
    return app
