"""Liveness and readiness: neither asks the store."""

from enum import StrEnum
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from fleetlimit.bootstrap.fleetlimit import Fleetlimit
from fleetlimit.limiter.events import BreakerState

_OK, _NOT_READY = 200, 503


class ReplicaStatus(StrEnum):
    """Whether a replica takes requests: not yet, now, or no longer."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


async def livez(_request: Request) -> Response:
    """Answer while the process serves at all."""
    return PlainTextResponse("ok\n")


async def readyz(request: Request) -> Response:
    """Answer 200 while this replica takes requests, whatever the store does, else 503.

    A store that is away is told here and does not make a replica unready: each policy says what
    happens then, and taking every replica out of service at once would be the worst answer.
    """
    fleetlimit: Fleetlimit = request.app.state.admin.fleetlimit
    status: ReplicaStatus = request.app.state.admin.status
    return JSONResponse(
        health_report(fleetlimit, status), _OK if status is ReplicaStatus.READY else _NOT_READY
    )


def health_report(fleetlimit: Fleetlimit, status: ReplicaStatus) -> dict[str, Any]:
    """Return what a person wants to know of this replica's health."""
    limiter = fleetlimit.limiter
    policies = limiter.active_policies.current
    closed = limiter.breaker_state is BreakerState.CLOSED
    return {
        "status": status,
        "store": {
            "location": limiter.store.location,
            "shared": limiter.store.shared,
            "status": "ok" if closed else "unavailable",
        },
        "policies": {
            "generation": policies.generation,
            "digest": policies.digest,
            "source": policies.source,
            "count": len(policies.policies),
        },
        "replica": limiter.membership.replica,
        "replicas": limiter.membership.replicas,
    }
