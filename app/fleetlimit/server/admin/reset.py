"""Endpoint that resets the buckets of a caller, for the holder of the admin token."""

import hmac
import json
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from fleetlimit.core.subject import UNMATCHED_ROUTE, Principal, Subject
from fleetlimit.errors import ConfigError, StoreError
from fleetlimit.server.admin.problem import problem_response

_MAX_BODY_BYTES = 65_536
"""Far above any valid body; bounds the memory that a client can use."""


async def reset(request: Request) -> Response:
    """Delete the buckets of a caller; all replicas apply it within a second.

    The body is `{"policy": "exports", "principal": "alice"}`, or `"client_address"` instead of
    `"principal"`. A policy that is keyed by route also needs `"route": "POST /exports"`.
    """
    admin = request.app.state.admin
    if not admin.token:
        return problem_response(404, "set FLEETLIMIT_ADMIN_TOKEN to offer POST /reset")
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(token.encode(), admin.token.encode()):
        response = problem_response(401, "send Authorization: Bearer with the admin token")
        response.headers["WWW-Authenticate"] = "Bearer"
        return response
    try:
        body = _validated(await _read_json(request))
        buckets = await admin.fleetlimit.limiter.reset(body["policy"], subject=_subject(body))
    except ConfigError as error:
        return problem_response(400, str(error))
    except StoreError as error:
        return problem_response(503, f"the store is unavailable: {error.kind}")
    return JSONResponse({"policy": body["policy"], "buckets": buckets})


async def _read_json(request: Request) -> Any:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BODY_BYTES:
            raise ConfigError(f"the body is above {_MAX_BODY_BYTES:,} bytes: write fewer values")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ConfigError("the body is not JSON") from error


def _validated(body: Any) -> dict[str, str]:
    allowed = {"policy", "principal", "client_address", "route"}
    if not isinstance(body, dict) or not set(body) <= allowed or "policy" not in body:
        raise ConfigError('write {"policy": "exports", "principal": "alice"}')
    if not all(isinstance(value, str) for value in body.values()):
        raise ConfigError("every value must be a string")
    if ("principal" in body) == ("client_address" in body):
        raise ConfigError("write either a principal or a client_address")
    return body


def _subject(body: dict[str, str]) -> Subject:
    principal = Principal(body["principal"]) if "principal" in body else None
    address = body.get("client_address", "unknown")
    return Subject(address, principal, route=body.get("route", UNMATCHED_ROUTE))
