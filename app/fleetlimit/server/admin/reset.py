"""Endpoint that resets the buckets of a caller, for the holder of the admin token."""

import hmac
import json
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from fleetlimit.bootstrap.build import build_logger
from fleetlimit.core.algorithms import token_bucket
from fleetlimit.core.decision import ceil_seconds
from fleetlimit.core.quota import rate_quota
from fleetlimit.core.subject import UNMATCHED_ROUTE, Principal, Subject
from fleetlimit.errors import ConfigError, StoreError
from fleetlimit.limiter.clock import MonotonicClock
from fleetlimit.limiter.ports import Clock
from fleetlimit.server.admin.problem import problem_response
from fleetlimit.telemetry import names

_FAILED_LOGINS: Final = rate_quota("10/minute")
_MAX_BODY_BYTES = 65_536
"""Far above any valid body; bounds the memory that a client can use."""


async def reset(request: Request) -> Response:
    """Delete the buckets of a caller; all replicas apply it within a second. It is logged.

    The body is `{"policy": "exports", "principal": "alice"}`, or `"client_address"` instead of
    `"principal"`. A policy that is keyed by route also needs `"route": "POST /exports"`.
    """
    admin = request.app.state.admin
    if not admin.token:
        return problem_response(404, "set FLEETLIMIT_ADMIN_TOKEN to offer POST /reset")
    log, client = build_logger("fleetlimit"), request.client.host if request.client else ""
    if (rejection := _check_token(request, admin, log, client)) is not None:
        return rejection
    try:
        body = _validated(await _read_json(request))
        subject = _subject(body)
        buckets = await admin.fleetlimit.limiter.reset(body["policy"], subject=subject)
    except ConfigError as error:
        return problem_response(400, str(error))
    except StoreError as error:
        return problem_response(503, f"the store is unavailable: {error.kind}")
    log.info(
        names.LOG_BUCKETS_RESET,
        client=client,
        policy=body["policy"],
        subject=admin.fleetlimit.limiter.subject_hash(subject),
        buckets=buckets,
    )
    if not buckets:
        return problem_response(
            404,
            f"policy {body['policy']!r} has no bucket of this caller: it has spent nothing, or it "
            "has another name, address or route; GET /explain shows under which it is counted",
        )
    return JSONResponse({"policy": body["policy"], "buckets": buckets})


class FailedLogins:
    """Limit on the wrong tokens of all clients. The right token is accepted all the same.

    Args:
        clock: Clock of this process.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or MonotonicClock()
        self._state: token_bucket.GcraState | None = None

    def spend(self) -> int:
        """Count a wrong token; return the seconds until the next one is answered, 0 for now."""
        now_us = self._clock.monotonic_us()
        status, state = token_bucket.acquire(_FAILED_LOGINS, self._state, now_us, 1, "")
        if status.allowed:
            self._state = state
        return ceil_seconds(status.retry_after_us)


def _check_token(request: Request, admin: Any, log: Any, client: str) -> Response | None:
    """Return the rejection of a request without the admin token."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and hmac.compare_digest(token.encode(), admin.token.encode()):
        return None
    retry_after = admin.failed_logins.spend()
    if retry_after:
        response = problem_response(429, f"too many wrong tokens: wait {retry_after} s")
        response.headers["Retry-After"] = str(retry_after)
        return response
    log.warning(names.LOG_ADMIN_REJECTED, client=client)
    response = problem_response(401, "send Authorization: Bearer with the admin token")
    response.headers["WWW-Authenticate"] = "Bearer"
    return response


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
