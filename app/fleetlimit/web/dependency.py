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
from fleetlimit.web.exceptions import refuse
from fleetlimit.web.http_limiter import Gate, find_gate
from fleetlimit.web.ratelimit_headers import merged
from fleetlimit.web.request_limits import Visit, begin, visit_of
from fleetlimit.web.route_policies import Ask, Cost
from fleetlimit.web.route_table import entry_of

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
        lease: Largest part of the limit that a replica may take in one call and spend by itself,
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
        lease: float | None = None,
    ) -> None:
        if (rate is None) == (policy is None):
            raise ConfigError('write either RateLimit("5/minute") or RateLimit(policy="exports")')
        self.cost = cost
        self._named = policy or ""
        self._policy: Policy | None = None
        if rate is None:
            if (burst, algorithm, key, name, mode, on_store_error, lease) != _DEFAULTS:
                raise ConfigError(
                    "write burst, algorithm, key, name, mode, on_store_error and lease of a named "
                    "policy in the policy file"
                )
            return
        quota = _quota(rate, burst, algorithm)
        parts = tuple(map(KeyPart.parse, [key] if isinstance(key, str) else key))
        if not parts:
            raise ConfigError("an empty key: write principal, client_address or global")
        self._policy = Policy(
            name or _default_name(quota, parts),
            (quota,),
            key=parts if name else (*parts, KeyPart(KeyKind.ROUTE)),
            mode=_choose(Mode, mode),
            on_store_error=_choose(OnStoreError, on_store_error),
            lease=lease,
        )
        (kept,) = self._policy.quotas("")
        if isinstance(cost, int) and not 0 <= cost <= kept.burst // kept.cost:
            raise ConfigError(
                f"a cost of {cost} can never pass: write a cost from 0 to "
                f"{kept.burst // kept.cost}, or a larger burst"
            )

    def policy(self, gate: Gate) -> Policy:
        """Return the policy that this limit stands for.

        Raises:
            ConfigError: The policy file has none of that name.
        """
        if self._policy is not None:
            return self._policy
        return gate.limiter.policies.named(self._named)

    async def __call__(
        self, connection: HTTPConnection, response: Response
    ) -> AsyncIterator[Reservation]:
        """Let the request in, or raise `Refused`."""
        visit, reservation = await self._enter(connection, response)
        try:
            yield reservation
        finally:
            await _leave(visit)

    async def _enter(
        self, connection: HTTPConnection, response: Response
    ) -> tuple[Visit, Reservation]:
        scope = connection.scope
        visit = visit_of(scope) or begin(scope, find_gate(scope), entry_of(scope))
        name = self.policy(visit.gate).name
        if name not in visit.policies:
            # All limits of the route decide together, so that none is spent when one refuses.
            asks = visit.entry.asks
            # Called by hand, it is no dependency of the route.
            asks = asks if self in asks else (*asks, self)
            await _admit(visit, connection, response, asks)
        return visit, visit.policies[name].under(name)


class _WithoutLeases(RateLimit):
    """A limit that never holds anything for as long as a request lasts.

    It is no generator, then: on one FastAPI spends as much time as on the rest of a dependency.
    """

    async def __call__(  # type: ignore[override]  # FastAPI looks at what it is, and so does nobody else
        self, connection: HTTPConnection, response: Response
    ) -> Reservation:
        """Let the request in, or raise `Refused`."""
        _, reservation = await self._enter(connection, response)
        return reservation


async def _leave(visit: Visit) -> None:
    # The middleware, if there is one, holds what is held for longer: until all is sent.
    if visit.holds_leases and not visit.shows_headers:
        await visit.leave()


async def _admit(
    visit: Visit, connection: HTTPConnection, response: Response, asks: Sequence[Ask]
) -> None:
    if visit.policies:
        asks = [ask for ask in asks if ask.policy(visit.gate).name not in visit.policies]
    refusal = await visit.admit(connection.scope, asks)
    if refusal is not None:
        await _leave(visit)
        raise refuse(refusal, connection)
    if not visit.shows_headers:
        # FastAPI puts these on the response. An earlier limit of the route may have told of itself.
        response.raw_headers[:] = merged(response.raw_headers, visit.fields())


def _quota(rate: str | Quota, burst: int | None, algorithm: str) -> Quota:
    if isinstance(rate, str):
        return rate_quota(rate, burst=burst, algorithm=_choose(Algorithm, algorithm))
    if burst is not None or algorithm != Algorithm.TOKEN_BUCKET:
        raise ConfigError("write burst and algorithm into the Quota")
    return rate


def _choose(kind: type[Choice], text: str) -> Choice:
    try:
        return kind(text)
    except ValueError:
        raise ConfigError(f"{text!r} is not known: write one of {', '.join(kind)}") from None


def _default_name(quota: Quota, key: tuple[KeyPart, ...]) -> str:
    """Name a limit by all that sets it apart from another one on the same route."""
    words = [f"{quota.limit}/{quota.period_us / SECOND_US:g}s"]
    if quota.algorithm is not Algorithm.TOKEN_BUCKET:
        words.append(quota.algorithm)
    if key != (KeyPart(KeyKind.PRINCIPAL),):
        words += [each for part in key for each in (part.kind, part.name) if each]
    return re.sub(r"[^\w./-]", "-", "-".join(words), flags=re.ASCII)


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
