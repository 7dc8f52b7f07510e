"""Policies in force, which of them hold a request, and giving a caller its quota back."""

import hmac
import json
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from fleetlimit.bootstrap.explain import explain
from fleetlimit.bootstrap.route_report import limits_by_route, policy_to_dict
from fleetlimit.bootstrap.settings import reveal
from fleetlimit.core.policy import Policy
from fleetlimit.core.subject import Principal, Subject
from fleetlimit.errors import ConfigError, StoreError

_MAX_BODY = 65_536


def _problem(status: int, detail: str) -> Response:
    return JSONResponse(
        {"type": "about:blank", "status": status, "detail": detail},
        status,
        media_type="application/problem+json",
    )


async def list_policies(request: Request) -> Response:
    """List the policies in force and the routes that they hold."""
    admin = request.app.state.admin
    http_limiter, current = (
        admin.fleetlimit.http_limiter,
        admin.fleetlimit.limiter.active_policies.current,
    )
    return JSONResponse(
        {
            "generation": current.generation,
            "digest": current.digest,
            "source": current.source,
            "policies": [_with_tiers(policy) for policy in current.policies],
            "coverage": [
                {"method": held.method, "route": held.template, "policies": held.policies}
                for held in limits_by_route(admin.routes, current, http_limiter)
            ],
        }
    )


def _with_tiers(policy: Policy) -> dict[str, Any]:
    tiers = {tier: policy_to_dict(policy, tier)["limits"] for tier in policy.tiers}
    return {**policy_to_dict(policy), "tiers": tiers}


async def explain_request(request: Request) -> Response:
    """Explain a request: `?method=GET&path=/items/1&header=X-API-Key:%20abc&address=192.0.2.1`."""
    admin = request.app.state.admin
    query = request.query_params
    path = query.get("path", "")
    if not path.startswith("/"):
        return _problem(400, "write ?path=/items/1&method=GET")
    headers = {}
    for header in query.getlist("header"):
        name, colon, value = header.partition(":")
        if not colon:
            return _problem(400, f"{header!r} is no header: write header=Name: value")
        headers[name.strip()] = value.strip()
    peer = query.get("address", request.client.host if request.client else "unknown")
    method = query.get("method", "GET")
    return JSONResponse(
        await explain(
            admin.fleetlimit.http_limiter,
            admin.routes,
            method=method,
            path=path,
            headers=headers,
            peer=peer,
        )
    )


async def reset(request: Request) -> Response:
    """Give a caller back what it has spent, at all replicas within a second.

    The body is `{"policy": "exports", "principal": "alice"}`, or `"client_address"` in place of
    the principal; `"route": "POST /exports"` as well for a policy that is kept per route.
    """
    admin = request.app.state.admin
    token = reveal(admin.fleetlimit.settings.admin_token)
    if not token:
        return _problem(404, "set FLEETLIMIT_ADMIN_TOKEN to offer POST /reset")
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.encode(), token.encode()):
        response = _problem(401, "send Authorization: Bearer with the admin token")
        response.headers["WWW-Authenticate"] = "Bearer"
        return response
    try:
        policy, subject = _parse_reset(await _read_json(request))
        buckets = await admin.fleetlimit.limiter.reset(policy, subject=subject)
    except ConfigError as error:
        return _problem(400, str(error))
    except StoreError as error:
        return _problem(503, f"the store is away: {error.kind}")
    return JSONResponse({"policy": policy, "buckets": buckets})


async def _read_json(request: Request) -> Any:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BODY:
            raise ConfigError("the body is too long")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ConfigError("the body is not JSON") from error


def _parse_reset(body: Any) -> tuple[str, Subject]:
    known = {"policy", "principal", "client_address", "route"}
    if not isinstance(body, dict) or not set(body) <= known or "policy" not in body:
        raise ConfigError('write {"policy": "exports", "principal": "alice"}')
    if not all(isinstance(value, str) for value in body.values()):
        raise ConfigError("every value is a text")
    if ("principal" in body) == ("client_address" in body):
        raise ConfigError("write either a principal or a client_address")
    principal = Principal(body["principal"]) if "principal" in body else None
    address = body.get("client_address", "unknown")
    return body["policy"], Subject(address, principal, route=body.get("route", "unmatched"))
