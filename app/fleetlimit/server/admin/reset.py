"""Endpoint that resets the buckets of a caller."""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from fleetlimit.bootstrap.build import build_logger
from fleetlimit.core.subject import UNMATCHED_ROUTE, Principal, Subject
from fleetlimit.errors import ConfigError
from fleetlimit.server.admin.problem import problem_response
from fleetlimit.server.admin.token import token_required
from fleetlimit.telemetry import names


@token_required
async def reset(request: Request, body: Any) -> Response:
    """Delete the buckets of a caller; all replicas apply it within a second. It is logged.

    The body is `{"policy": "exports", "principal": "alice"}`, or `"client_address"` instead of
    `"principal"`. A policy that is keyed by route also needs `"route": "POST /exports"`.
    """
    admin = request.app.state.admin
    body = _validated(body)
    subject = _subject(body)
    buckets = await admin.fleetlimit.limiter.reset(body["policy"], subject=subject)
    build_logger("fleetlimit").info(
        names.LOG_BUCKETS_RESET,
        client=request.client.host if request.client else "",
        policy=body["policy"],
        subject=admin.fleetlimit.limiter.subject_hash(subject),
        buckets=buckets,
    )
    if not buckets:
        return problem_response(
            404,
            f"policy {body['policy']!r} has no bucket of this caller: it has spent nothing, or it "
            "has another name, address or route; POST /explain shows under which it is counted",
        )
    return JSONResponse({"policy": body["policy"], "buckets": buckets})


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
