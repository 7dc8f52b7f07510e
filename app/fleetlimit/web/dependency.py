"""Limits as FastAPI dependencies: `Depends(RateLimit("5/minute"))`."""

import re
from collections.abc import AsyncIterator, Sequence
from enum import StrEnum
from typing import Any, Self, TypeVar

from fastapi import Response
from starlette.requests import HTTPConnection

from fleetlimit.core.policy import KeyKind, KeyPart, Mode, OnStoreError, Policy
from fleetlimit.core.quota import MILLISECOND_US, SECOND_US, Algorithm, Quota, rate_quota
from fleetlimit.errors import ConfigError
from fleetlimit.limiter.reservation import Reservation
from fleetlimit.web.exceptions import make_exception
from fleetlimit.web.http_limiter import HTTPLimiter, get_limiter
from fleetlimit.web.ratelimit_headers import merge_headers
from fleetlimit.web.request_limits import RequestLimits, get_request_limits, start_request_limits
from fleetlimit.web.route_policies import Cost, RateLimitDependency
from fleetlimit.web.route_table import match_route

Choice = TypeVar("Choice", bound=StrEnum)
_DEFAULTS = (
    None,
    Algorithm.TOKEN_BUCKET,
    KeyKind.PRINCIPAL,
    None,
    Mode.ENFORCE,
    OnStoreError.LOCAL,
    None,
)


class RateLimit:
    """A limit on the routes that depend on it.

    The value of the dependency is the `Reservation`, for a cost known only later:
    `limit: Annotated[Reservation, Depends(RateLimit("1000/hour", cost=10))]`, then
    `await limit.commit(7)`.

    Args:
        rate: Such as `5/minute` or `100 per 90 s`; leave it out to name a policy instead.
        policy: Name of a policy in the policy file.
        burst: Capacity of a token bucket; the rate's number when left out.
        algorithm: How the limit counts.
        cost: What a request spends: a number, or a function of the connection.
        key: What a bucket is kept per, for `rate`; each route has buckets of its own unless the
            limit has a name.
        name: The limit's name in metrics and headers; routes with limits of one name share them.
            Without it the name is made of the rate, and of algorithm and key where they are not
            the usual ones.
        mode: Enforce, or only count.
        on_store_error: What to do while the store is away.
        prefetch: Largest part of the limit that a replica may take in one call and spend by itself,
            for a bucket that all share; above 0 and at most 0.5.

    Raises:
        ConfigError: The arguments cannot work together; the message says what to write.
    """

    def __new__(cls, rate: str | Quota | None = None, **_: object) -> Self:
        """Choose the kind by what the limit may hold."""
        held = rate is None or (isinstance(rate, Quota) and rate.algorithm is Algorithm.CONCURRENCY)
        kind: Any = cls if held or cls is not RateLimit else _WithoutLeases
        found: Self = super().__new__(kind)
        return found

    def __init__(
        self,
        rate: str | Quota | None = None,
        *,
        policy: str | None = None,
        burst: int | None = None,
        algorithm: str = Algorithm.TOKEN_BUCKET,
        cost: Cost = 1,
        key: str | Sequence[str] = KeyKind.PRINCIPAL,
        name: str | None = None,
        mode: str = Mode.ENFORCE,
        on_store_error: str = OnStoreError.LOCAL,
        prefetch: float | None = None,
    ) -> None:
        if (rate is None) == (policy is None):
            raise ConfigError('write either RateLimit("5/minute") or RateLimit(policy="exports")')
        self.cost = cost
        self._policy_name = policy or ""
        self._policy: Policy | None = None
        if rate is None:
            if (burst, algorithm, key, name, mode, on_store_error, prefetch) != _DEFAULTS:
                raise ConfigError(
                    "write burst, algorithm, key, name, mode, on_store_error and lease of a named "
                    "policy in the policy file"
                )
            return
        quota = _parse_limit(rate, burst, algorithm)
        parts = tuple(map(KeyPart.parse, [key] if isinstance(key, str) else key))
        if not parts:
            raise ConfigError("an empty key: write principal, client_address or global")
        self._policy = Policy(
            name or _default_name(quota, parts),
            (quota,),
            key=parts if name else (*parts, KeyPart(KeyKind.ROUTE)),
            mode=_parse_enum(Mode, mode),
            on_store_error=_parse_enum(OnStoreError, on_store_error),
            prefetch=prefetch,
        )
        (kept,) = self._policy.quotas_for("")
        if isinstance(cost, int) and not 0 <= cost <= kept.burst // kept.cost:
            raise ConfigError(
                f"a cost of {cost} can never pass: write a cost from 0 to "
                f"{kept.burst // kept.cost}, or a larger burst"
            )

    def resolve_policy(self, http_limiter: HTTPLimiter) -> Policy:
        """Return the policy that this limit stands for.

        Raises:
            ConfigError: The policy file has none of that name.
        """
        if self._policy is not None:
            return self._policy
        return http_limiter.limiter.active_policies.require(self._policy_name)

    async def __call__(
        self, connection: HTTPConnection, response: Response
    ) -> AsyncIterator[Reservation]:
        """Let the request in, or raise `Refused`."""
        request_limits, reservation = await self._check(connection, response)
        try:
            yield reservation
        finally:
            await _release(request_limits)

    async def _check(
        self, connection: HTTPConnection, response: Response
    ) -> tuple[RequestLimits, Reservation]:
        scope = connection.scope
        request_limits = get_request_limits(scope) or start_request_limits(
            scope, get_limiter(scope), match_route(scope)
        )
        name = self.resolve_policy(request_limits.http_limiter).name
        if name not in request_limits.reservation_by_policy:
            # All limits of the route decide together, so that none is spent when one refuses.
            dependencies = request_limits.route.rate_limits
            # Called by hand, it is no dependency of the route.
            dependencies = dependencies if self in dependencies else (*dependencies, self)
            await _check_together(request_limits, connection, response, dependencies)
        return request_limits, request_limits.reservation_by_policy[name].for_policy(name)


class _WithoutLeases(RateLimit):
    """A limit that never holds anything for as long as a request lasts.

    It is no generator, then: on one FastAPI spends as much time as on the rest of a dependency.
    """

    async def __call__(  # type: ignore[override]  # FastAPI looks at what it is, and so does nobody else
        self, connection: HTTPConnection, response: Response
    ) -> Reservation:
        """Let the request in, or raise `Refused`."""
        _, reservation = await self._check(connection, response)
        return reservation


async def _release(request_limits: RequestLimits) -> None:
    # The middleware, if there is one, holds what is held for longer: until all is sent.
    if request_limits.has_leases and not request_limits.headers_sent_by_middleware:
        await request_limits.release_leases()


async def _check_together(
    request_limits: RequestLimits,
    connection: HTTPConnection,
    response: Response,
    dependencies: Sequence[RateLimitDependency],
) -> None:
    if request_limits.reservation_by_policy:
        dependencies = [
            ask
            for ask in dependencies
            if ask.resolve_policy(request_limits.http_limiter).name
            not in request_limits.reservation_by_policy
        ]
    rejection = await request_limits.check(connection.scope, dependencies)
    if rejection is not None:
        await _release(request_limits)
        raise make_exception(rejection, connection)
    if not request_limits.headers_sent_by_middleware:
        # FastAPI puts these on the response. An earlier limit of the route may have told of itself.
        response.raw_headers[:] = merge_headers(
            response.raw_headers, request_limits.response_headers()
        )


def _parse_limit(rate: str | Quota, burst: int | None, algorithm: str) -> Quota:
    if isinstance(rate, str):
        return rate_quota(rate, burst=burst, algorithm=_parse_enum(Algorithm, algorithm))
    if burst is not None or algorithm != Algorithm.TOKEN_BUCKET:
        raise ConfigError("write burst and algorithm into the Quota")
    return rate


def _parse_enum(kind: type[Choice], text: str) -> Choice:
    try:
        return kind(text)
    except ValueError:
        raise ConfigError(f"{text!r} is not known: write one of {', '.join(kind)}") from None


def _default_name(quota: Quota, key: tuple[KeyPart, ...]) -> str:
    """Name a limit by all that sets it apart from another one on the same route."""
    parts = [f"{quota.limit}/{quota.period_us / SECOND_US:g}s"]
    if quota.algorithm is not Algorithm.TOKEN_BUCKET:
        parts.append(quota.algorithm)
    if key != (KeyPart(KeyKind.PRINCIPAL),):
        parts += [each for part in key for each in (part.kind, part.name) if each]
    return re.sub(r"[^\w./-]", "-", "-".join(parts), flags=re.ASCII)


def rate_limit(limit: int, window: float) -> RateLimit:
    """Allow `limit` requests in `window` seconds for each caller on each route.

    Args:
        limit: Number of requests.
        window: Seconds in which a spent limit is whole again.

    Raises:
        ConfigError: The numbers allow nothing.
    """
    period_us = round(window * SECOND_US) // MILLISECOND_US * MILLISECOND_US
    return RateLimit(Quota(Algorithm.TOKEN_BUCKET, limit, period_us, limit))
