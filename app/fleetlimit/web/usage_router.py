"""Route that shows callers their limits: `app.include_router(usage_router())` adds `GET /usage`."""

import math
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final

from fastapi import APIRouter, Response
from fastapi.params import Depends
from pydantic import BaseModel, Field
from starlette.requests import Request

from fleetlimit.call_advice import advised
from fleetlimit.core.quota import SECOND_US, Algorithm
from fleetlimit.errors import ConfigError, StoreError
from fleetlimit.web.caller_limits import CallerLimit, CallerLimitFinder
from fleetlimit.web.default_limiter import open_default_limiter
from fleetlimit.web.responses import (
    RATE_LIMIT_RESPONSES,
    SERVICE_UNAVAILABLE,
    RejectionResponse,
    credential_response,
    state_unknown_response,
)
from fleetlimit.web.route_info import OWN_LIMITS_KEY
from fleetlimit.web.wiring import find_limiter

_CLOCK_NOISE_US: Final = 50_000
"""Time that a state needs from the store to here, which must not move a reset at a full second into
the next one."""


class LimitUsage(BaseModel):
    """State of one limit."""

    policy: str = Field(description="Name of the policy.")
    limit_name: str = Field(description="Name of the limit within the policy.")
    route: str | None = Field(
        description="Methods and template of the route whose requests the limit counts; null if it "
        "counts the requests of several routes together."
    )
    algorithm: str = Field(description="How the limit counts.")
    limit: int = Field(description="Units per window, or units in use at the same time.")
    window_seconds: float | None = Field(
        description="Length of the window; null for a limit of units in use."
    )
    capacity: int = Field(description="Most units that can be spent at one instant.")
    remaining: int | None = Field(
        description="Units that can be spent now; null if they depend on a part of other requests."
    )
    allowed: bool | None = Field(
        description="Whether a request with a cost of 1 passes this limit now; null as above."
    )
    retry_after_seconds: float | None = Field(
        description="Seconds until such a request passes; 0 if it does now."
    )
    reset_after_seconds: float | None = Field(description="Seconds until all units are available.")
    reset_at: datetime | None = Field(
        description="Instant at which all units are available (RFC 3339, UTC); null if they are."
    )


class CallerUsage(BaseModel):
    """All limits that apply to the caller."""

    principal: str | None = Field(
        description="Name of the verified caller; null if it is counted by its address."
    )
    tier: str | None = Field(description="Tier of the caller.")
    limits: list[LimitUsage] = Field(description="The limits, those of several routes first.")
    complete: bool = Field(description="Whether the list has all limits.")


@advised('app.include_router(usage_router()), or usage_router("/me/limits")', {})
def usage_router(
    path: str = "/usage",
    *,
    prefix: str = "",
    tags: list[str | Enum] | None = None,
    dependencies: Sequence[Depends] | None = None,
    include_in_schema: bool = True,
    name: str = "usage",
) -> APIRouter:
    """Return a router with one route, at which callers see their limits.

    It spends nothing, and needs one call of the store. No policy limits the route unless its
    `match` names it, and no limit in code but those in `dependencies`, so that a caller whose
    limits are spent can still see them. Limits that an app or a router has for all of its routes
    are exempt here.

    Args:
        path: Path of the route.
        prefix: As in `APIRouter`, like the other arguments.
        tags: As above.
        dependencies: As above.
        include_in_schema: As above.
        name: Name of the route.

    Raises:
        ConfigError: The path does not begin with a slash.
    """
    if not (isinstance(path, str) and path.startswith("/")):
        raise ConfigError(f'{path!r} is not a path: write usage_router("/usage")')

    finder = CallerLimitFinder()

    async def read_usage(request: Request, response: Response) -> Any:
        response.headers["Cache-Control"] = "no-store"
        return await _read_usage(request, finder)

    own_limits = [each.dependency for each in dependencies or ()]
    setattr(read_usage, OWN_LIMITS_KEY, own_limits)
    router = APIRouter(prefix=prefix, tags=tags, dependencies=dependencies)
    router.add_api_route(
        path,
        read_usage,
        methods=["GET"],
        response_model=CallerUsage,
        responses={SERVICE_UNAVAILABLE: RATE_LIMIT_RESPONSES[SERVICE_UNAVAILABLE]},
        summary="Limits of the caller",
        description="All limits that apply to the caller, with the units that remain. It spends "
        "nothing.",
        name=name,
        include_in_schema=include_in_schema,
    )
    return router


async def _read_usage(request: Request, finder: CallerLimitFinder) -> CallerUsage | Response:
    http_limiter = find_limiter(request.scope)
    if http_limiter is None:
        http_limiter = open_default_limiter(request.scope["app"])
    try:
        found = await finder.find(request, http_limiter)
    except StoreError:
        return _to_response(state_unknown_response(http_limiter.exposed_headers))
    error = found.identity.error
    if error is not None and http_limiter.reject_invalid:
        return _to_response(credential_response(error, http_limiter.exposed_headers))
    now_us = time.time_ns() // 1_000
    principal = found.identity.principal
    return CallerUsage(
        principal=principal.name if principal else None,
        tier=(principal.tier or None) if principal else None,
        limits=[_to_model(each, now_us) for each in found.limits],
        complete=found.is_complete,
    )


def _to_response(rejection: RejectionResponse) -> Response:
    return Response(rejection.body, rejection.status, dict(rejection.headers))


def _to_model(limit: CallerLimit, now_us: int) -> LimitUsage:
    quota, status = limit.quota, limit.status
    is_rate = quota.algorithm is not Algorithm.CONCURRENCY
    state: dict[str, Any] = dict.fromkeys(
        ("remaining", "allowed", "retry_after_seconds", "reset_after_seconds", "reset_at")
    )
    if status is not None:
        state = {
            "remaining": status.remaining,
            "allowed": status.allowed,
            "retry_after_seconds": status.retry_after_us / SECOND_US,
            "reset_after_seconds": status.reset_after_us / SECOND_US,
            "reset_at": _instant(now_us + status.reset_after_us) if status.reset_after_us else None,
        }
    return LimitUsage(
        policy=limit.policy.name,
        limit_name=quota.name,
        route=limit.route or None,
        algorithm=quota.algorithm.value,
        limit=quota.limit,
        window_seconds=quota.period_seconds if is_rate else None,
        capacity=quota.burst,
        **state,
    )


def _instant(at_us: int) -> datetime:
    """Return the whole second at which an instant has passed."""
    return datetime.fromtimestamp(math.ceil((at_us - _CLOCK_NOISE_US) / SECOND_US), UTC)
