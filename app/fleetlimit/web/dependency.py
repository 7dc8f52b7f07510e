"""Rate limits as FastAPI dependencies: `Depends(RateLimit("5/minute"))`.

`RateLimit` limits by rate, `ConcurrencyLimit` limits the requests in progress, and `PolicyLimit`
applies a policy of the policy file. The value of each dependency is the `Reservation`, for a cost
known only later: `limit: Annotated[Reservation, Depends(RateLimit("1000/hour", cost=10))]`, then
`await limit.commit(7)`.
"""

import inspect
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from functools import partial
from typing import Final, Unpack
from weakref import ref

from fastapi import BackgroundTasks, Response
from starlette.requests import HTTPConnection
from starlette.types import Scope

from fleetlimit.core.policy import ModeName, OnStoreErrorName, Policy
from fleetlimit.core.quota import (
    MILLISECOND_US,
    SECOND_US,
    Algorithm,
    Quota,
    RateAlgorithm,
    concurrency_quota,
    parse_enum,
    rate_quota,
)
from fleetlimit.errors import ConfigError
from fleetlimit.limiter.reservation import Reservation
from fleetlimit.web.default_limiter import open_default_limiter
from fleetlimit.web.exceptions import make_exception
from fleetlimit.web.http_limiter import HTTPLimiter
from fleetlimit.web.inline_policy import PolicyOptions, make_policy, to_cost
from fleetlimit.web.ratelimit_headers import merge_headers
from fleetlimit.web.request_limits import (
    RequestLimits,
    get_request_limits,
    raw_headers_of,
    start_request_limits,
)
from fleetlimit.web.route_policies import Cost, RateLimitDependency
from fleetlimit.web.route_table import match_route
from fleetlimit.web.wiring import find_limiter

_EXIT_STACK_KEY: Final = "fastapi_inner_astack"
"""Name in the scope under which FastAPI keeps the exit stack of the request's dependencies."""


class _ReleasedLimit(RateLimitDependency):
    """Limit whose units may be leases, which are released after the request."""

    async def __call__(
        self, connection: HTTPConnection, response: Response, background: BackgroundTasks
    ) -> AsyncIterator[Reservation]:
        """Admit the request, or raise `RequestRejected`; release its units after the response."""
        request_limits, reservation = await _check(self, connection, response)
        if request_limits.has_leases and not request_limits.headers_sent_by_middleware:
            # The first background task: FastAPI runs the others before it closes dependencies.
            background.add_task(request_limits.release_leases)
        try:
            yield reservation
        finally:
            await _release(request_limits)


class _InlineLimit(RateLimitDependency):
    """Limit that is written in code and has a policy of its own.

    Args:
        quota: The limit in integers.
        call: The call that makes the object, as its `repr`.
        options: The other arguments of that call.
    """

    def __init__(self, quota: Quota, call: str, **options: Unpack[PolicyOptions]) -> None:
        self.cost = to_cost(options.get("cost", 1))
        self._policy = make_policy(quota, **options)
        self._call = call

    def __repr__(self) -> str:
        return self._call

    def resolve_policy(self, http_limiter: HTTPLimiter) -> Policy:  # noqa: ARG002 - as in the base
        """Return the policy of this limit, which is the same for every limiter."""
        return self._policy


class RateLimit(_InlineLimit):
    """Limit on the rate of requests to the routes that depend on it.

    Args:
        rate: Units per period, such as `5/minute` or `100 per 90 s`.
        burst: Units that can be spent at once; the number in `rate` by default. Only for
            `token_bucket`.
        algorithm: How the limit counts.
        cost: Units that a request spends, or a function of the connection that returns them.
        key: Parts of the bucket's key: `principal`, `client_address`, `global`, `route` or
            `header:X-Name`; one, or a sequence. Each route has its own buckets unless the limit
            has a name.
        name: Name of the limit in metrics and headers; routes whose limits have one name share
            buckets. By default the name is made of the rate and of each other argument that is not
            the default, except `cost`.
        mode: Enforce the limit, only count what it would reject, or switch it off.
        on_store_error: Decision while the store is unavailable: by a limit local to the replica,
            admit, or reject.
        prefetch: Largest share of the limit that a replica acquires in one store call and spends
            locally; above 0 and at most 0.5. For buckets that many callers share.

    Raises:
        ConfigError: The arguments cannot work together; the message says what to write.
    """

    def __init__(
        self,
        rate: str,
        *,
        burst: int | None = None,
        algorithm: RateAlgorithm = "token_bucket",
        cost: Cost = 1,
        key: str | Sequence[str] = "principal",
        name: str | None = None,
        mode: ModeName = "enforce",
        on_store_error: OnStoreErrorName = "local",
        prefetch: float | None = None,
    ) -> None:
        parsed = parse_enum(Algorithm, algorithm)
        if parsed is Algorithm.CONCURRENCY:
            raise ConfigError("concurrency has no rate: write ConcurrencyLimit(10)")
        options: PolicyOptions = {
            "cost": cost,
            "key": key,
            "name": name,
            "mode": mode,
            "on_store_error": on_store_error,
            "prefetch": prefetch,
        }
        call = _call_repr(type(self), rate, burst=burst, algorithm=algorithm, **options)
        super().__init__(rate_quota(rate, burst=burst, algorithm=parsed), call, **options)

    async def __call__(self, connection: HTTPConnection, response: Response) -> Reservation:
        """Admit the request, or raise `RequestRejected`."""
        # A plain coroutine: FastAPI's handling of generators doubles the cost of a dependency.
        _, reservation = await _check(self, connection, response)
        return reservation


class ConcurrencyLimit(_InlineLimit, _ReleasedLimit):
    """Limit on the requests in progress at the same time on the routes that depend on it.

    A unit is held until the response has been sent. Without `RateLimitMiddleware` on the app, an
    endpoint that returns a response with a `background` of its own holds it during that, too.

    Args:
        limit: Units that can be held at the same time.
        lease: Seconds, or a `timedelta`, after which a unit is returned when its replica died.
            While the request lasts the replica renews the lease.
        cost: Units that a request holds, or a function of the connection that returns them.
        key: As in `RateLimit`.
        name: As in `RateLimit`.
        mode: As in `RateLimit`.
        on_store_error: As in `RateLimit`.

    Raises:
        ConfigError: The arguments cannot work together; the message says what to write.
    """

    def __init__(
        self,
        limit: int,
        *,
        lease: float | timedelta = 30,
        cost: Cost = 1,
        key: str | Sequence[str] = "principal",
        name: str | None = None,
        mode: ModeName = "enforce",
        on_store_error: OnStoreErrorName = "local",
    ) -> None:
        options: PolicyOptions = {
            "cost": cost,
            "key": key,
            "name": name,
            "mode": mode,
            "on_store_error": on_store_error,
        }
        call = _call_repr(type(self), limit, lease=lease, **options)
        super().__init__(concurrency_quota(limit, lease=lease), call, **options)


class PolicyLimit(_ReleasedLimit):
    """Limit by a policy of the policy file, or of the `PolicySet` that `Fleetlimit` was given.

    Limits, key and mode stand in the policy; a reload changes them.

    Args:
        name: Name of the policy.
        cost: Units that a request spends, or a function of the connection that returns them.

    Raises:
        ConfigError: The cost is negative, no whole number and no function.
    """

    def __init__(self, name: str, *, cost: Cost = 1) -> None:
        self.name = name
        self.cost = to_cost(cost)

    def __repr__(self) -> str:
        return _call_repr(type(self), self.name, cost=self.cost)

    def resolve_policy(self, http_limiter: HTTPLimiter) -> Policy:
        """Return the active policy of this name.

        Raises:
            ConfigError: There is none.
        """
        return http_limiter.limiter.active_policies.require(self.name)


class _WindowLimit(RateLimit):
    """`RateLimit` whose window may be a fraction of a second, which no rate in text can state."""

    def __init__(self, limit: int, window: float | timedelta) -> None:
        quota = Quota(Algorithm.TOKEN_BUCKET, limit, _whole_milliseconds_us(window), limit)
        _InlineLimit.__init__(self, quota, f"rate_limit(limit={limit!r}, window={window!r})")


def rate_limit(limit: int, window: float | timedelta) -> RateLimit:
    """Allow `limit` requests per `window` for each caller on each route.

    Args:
        limit: Number of requests.
        window: Seconds, or a `timedelta`, in which a spent limit refills; whole milliseconds.

    Raises:
        ConfigError: The numbers allow no request.
    """
    return _WindowLimit(limit, window)


async def _check(
    dependency: RateLimitDependency, connection: HTTPConnection, response: Response
) -> tuple[RequestLimits, Reservation]:
    """Check the request once for all limits of its route, and return the dependency's part."""
    scope = connection.scope
    request_limits = get_request_limits(scope)
    if request_limits is None or request_limits.app is not scope["app"]:
        request_limits = _enter_app(connection, request_limits)
    name = dependency.resolve_policy(request_limits.http_limiter).name
    if name not in request_limits.reservation_by_policy:
        # All limits of the route are checked together, so a rejection by one spends none.
        dependencies = request_limits.route.active_rate_limits()
        if dependency not in dependencies:
            # The endpoint called it, and FastAPI does not know of it.
            dependencies = (*dependencies, dependency)
        await _check_together(request_limits, connection, response, dependencies)
    return request_limits, request_limits.reservation_by_policy[name].for_policy(name)


def _enter_app(connection: HTTPConnection, outer: RequestLimits | None) -> RequestLimits:
    """Return the request's limits under the app that it reached, a mounted one perhaps."""
    scope = connection.scope
    http_limiter = find_limiter(scope)
    if outer is not None and (http_limiter is None or http_limiter is outer.http_limiter):
        return outer
    if http_limiter is None:
        http_limiter = open_default_limiter(scope["app"])
    return start_request_limits(scope, http_limiter, match_route(scope))


async def _check_together(
    request_limits: RequestLimits,
    connection: HTTPConnection,
    response: Response,
    dependencies: Sequence[RateLimitDependency],
) -> None:
    if request_limits.reservation_by_policy:
        dependencies = [
            each
            for each in dependencies
            if each.resolve_policy(request_limits.http_limiter).name
            not in request_limits.reservation_by_policy
        ]
    had_leases = request_limits.has_leases
    rejection = await request_limits.check(connection.scope, dependencies)
    if request_limits.has_leases and not had_leases:
        _release_at_end(request_limits, connection.scope)
    if rejection is not None:
        await _release(request_limits)
        raise make_exception(rejection, request_limits.decision, connection)
    if not request_limits.headers_sent_by_middleware:
        # Weak references: in a cycle, a dropped reservation would not release its leases at once.
        reservations = [ref(each) for each in request_limits.reservations]
        write = partial(_write_headers, response, request_limits.http_limiter, reservations)
        write()
        # An endpoint may correct the cost before FastAPI sends the response.
        request_limits.reservations[-1].on_corrected = write


def _write_headers(
    response: Response, http_limiter: HTTPLimiter, reservations: Sequence[ref[Reservation]]
) -> None:
    """Set the headers that FastAPI copies to the final response.

    They replace the headers that an earlier limit of this route has set.
    """
    held = [each for reference in reservations if (each := reference()) is not None]
    response.raw_headers[:] = merge_headers(
        response.raw_headers, raw_headers_of(http_limiter, held)
    )


def _release_at_end(request_limits: RequestLimits, scope: Scope) -> None:
    """Release the leases when FastAPI closes the request, whatever fails until then.

    The limit that runs the check may be another one than the limit that holds the leases, and a
    dependency between the two may fail.
    """
    # FastAPI before 0.118 has no such entry: there the leases are released when the failed
    # request's reservation is dropped.
    stack = scope.get(_EXIT_STACK_KEY)
    if stack is not None and not request_limits.headers_sent_by_middleware:
        stack.push_async_callback(request_limits.release_leases)


async def _release(request_limits: RequestLimits) -> None:
    # With the middleware the units are held longer: until the response has been sent.
    if request_limits.has_leases and not request_limits.headers_sent_by_middleware:
        await request_limits.release_leases()


def _whole_milliseconds_us(duration: float | timedelta) -> int:
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else duration
    return round(seconds * SECOND_US) // MILLISECOND_US * MILLISECOND_US


def _call_repr(kind: type, *arguments: object, **options: object) -> str:
    """Return the call that makes an object, without the options that have their default."""
    parameters = inspect.signature(kind).parameters
    given = [
        f"{name}={value!r}" for name, value in options.items() if value != parameters[name].default
    ]
    return f"{kind.__name__}({', '.join([*map(repr, arguments), *given])})"
