"""Endpoint for the active policies and the routes that they apply to."""

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from fleetlimit.bootstrap.policy_json import policy_to_dict
from fleetlimit.bootstrap.route_report import limits_by_route
from fleetlimit.core.policy import Policy


async def list_policies(request: Request) -> Response:
    """List the active policies, and each route with the policies that apply to it."""
    # In a thread: many routes and policies take some 100 ms, in which no request would be served.
    return await asyncio.to_thread(_list_policies, request.app.state.admin)


def _list_policies(admin: Any) -> Response:
    http_limiter = admin.fleetlimit.http_limiter
    active = admin.fleetlimit.limiter.active_policies.current
    return JSONResponse(
        {
            "generation": active.generation,
            "digest": active.digest,
            "source": active.source,
            "rejected": admin.fleetlimit.rejected_policies,
            "policies": [_with_tiers(policy) for policy in active.policies],
            "coverage": [
                {"method": each.method, "route": each.template, "policies": each.policies}
                for each in limits_by_route(admin.wrapped.routes, active, http_limiter)
            ],
        }
    )


def _with_tiers(policy: Policy) -> dict[str, Any]:
    tiers = {tier: policy_to_dict(policy, tier)["limits"] for tier in policy.tiers}
    return {**policy_to_dict(policy), "tiers": tiers}
