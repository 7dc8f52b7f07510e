"""Endpoints for the active policies, and for the policies that apply to one request."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from fleetlimit.bootstrap.explain import explain
from fleetlimit.bootstrap.route_report import limits_by_route, policy_to_dict
from fleetlimit.core.policy import Policy
from fleetlimit.core.subject import Principal
from fleetlimit.errors import ConfigError
from fleetlimit.server.admin.problem import problem_response

_PARAMETERS: Final = frozenset({"address", "header", "method", "path", "principal", "tier"})


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
            "policies": [_with_tiers(policy) for policy in active.policies],
            "coverage": [
                {"method": each.method, "route": each.template, "policies": each.policies}
                for each in limits_by_route(admin.routes, active, http_limiter)
            ],
        }
    )


def _with_tiers(policy: Policy) -> dict[str, Any]:
    tiers = {tier: policy_to_dict(policy, tier)["limits"] for tier in policy.tiers}
    return {**policy_to_dict(policy), "tiers": tiers}


async def explain_request(request: Request) -> Response:
    """Explain a request: `?method=GET&path=/items/1&header=X-API-Key:%20abc&address=192.0.2.1`.

    `principal=alice&tier=pro` explains for that caller, whatever the headers identify.
    """
    admin = request.app.state.admin
    query = request.query_params
    client = request.client.host if request.client else "unknown"
    try:
        _check_query(query)
        principal = (
            Principal(query["principal"], query.get("tier", "")) if "principal" in query else None
        )
        explanation = await explain(
            admin.fleetlimit.http_limiter,
            admin.routes,
            method=query.get("method", "GET"),
            path=query["path"],
            headers=_headers(query.getlist("header")),
            peer=query.get("address", client),
            principal=principal,
        )
    except ConfigError as error:
        return problem_response(400, str(error))
    return JSONResponse(explanation)


def _check_query(query: QueryParams) -> None:
    if unknown := sorted(set(query) - _PARAMETERS):
        raise ConfigError(
            f"there is no parameter {', '.join(unknown)}: write {', '.join(sorted(_PARAMETERS))}"
        )
    if not query.get("path", "").startswith("/"):
        raise ConfigError("write ?path=/items/1&method=GET")
    if "tier" in query and "principal" not in query:
        raise ConfigError("a tier belongs to a principal: write principal=alice&tier=pro")


def _headers(lines: Sequence[str]) -> dict[str, str]:
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise ConfigError(f"{line!r} is not a header: write header=Name: value")
        headers[name.strip()] = value.strip()
    return headers
