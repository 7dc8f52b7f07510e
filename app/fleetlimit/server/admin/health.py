"""Liveness and readiness endpoints. They send nothing to the store."""

from enum import StrEnum
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from fleetlimit.bootstrap.fleetlimit import Fleetlimit
from fleetlimit.limiter.limiter import Limiter

_OK, _NOT_READY = 200, 503


class ReplicaStatus(StrEnum):
    """Phase of this replica: only a ready replica accepts requests."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


async def livez(_request: Request) -> Response:
    """Return 200 while the event loop runs."""
    return PlainTextResponse("ok\n")


async def readyz(request: Request) -> Response:
    """Return 200 while this replica accepts requests, else 503.

    The report contains the status of the store, but an unavailable store does not make a replica
    unready. Each policy has its fallback, and an outage would take all replicas out of service.
    """
    fleetlimit: Fleetlimit = request.app.state.admin.fleetlimit
    status: ReplicaStatus = request.app.state.admin.status
    return JSONResponse(
        _report(fleetlimit, status), _OK if status is ReplicaStatus.READY else _NOT_READY
    )


def _report(fleetlimit: Fleetlimit, status: ReplicaStatus) -> dict[str, Any]:
    """Return the status of the replica, its store, its policies and its membership as JSON."""
    limiter = fleetlimit.limiter
    policies = limiter.active_policies.current
    return {
        "status": status,
        "store": _store_report(limiter),
        "policies": {
            "generation": policies.generation,
            "digest": policies.digest,
            "source": policies.source,
            "count": len(policies.policies),
            # Errors of a changed file that is not active.
            "rejected": fleetlimit.rejected_policies,
        },
        "replica": limiter.membership.replica,
        "replicas": limiter.membership.replicas,
    }


def _store_report(limiter: Limiter) -> dict[str, Any]:
    """Return the status of the store; in a Cluster `degraded` while it lacks some servers."""
    kinds_by_node = limiter.failure_kinds
    report: dict[str, Any] = {
        "location": limiter.store.location,
        "shared": limiter.store.shared,
        "status": "unavailable" if kinds_by_node else "ok",
    }
    if kinds_by_node:
        report["failures"] = sorted({*kinds_by_node.values()})
        if limiter.store.topology is not None:
            report["unavailable_nodes"] = [*kinds_by_node]
            if not kinds_by_node.keys() >= {*limiter.store.topology.nodes}:
                report["status"] = "degraded"
    return report
