"""Rate limits as FastAPI dependencies: `Depends(RateLimit("5/minute"))`.

`RateLimit` limits by rate, `ConcurrencyLimit` limits the requests in progress, and `PolicyLimit`
applies a policy of the policy file. The value of each dependency is the `Reservation`, for a cost
known only later: `limit: Annotated[Reservation, Depends(RateLimit("1000/hour", cost=10))]`, then
`await limit.commit(7)`.
"""

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Annotated, Any, TypedDict, Unpack

from fastapi import BackgroundTasks, Response
from starlette.requests import HTTPConnection

from fleetlimit.call_advice import LIMIT_NAMES, advised, rate_advice
from fleetlimit.core.counted_statuses import CountSpec
from fleetlimit.core.limit import Limit, RateAlgorithm
from fleetlimit.core.policy import ModeName, OnStoreErrorName, Policy
from fleetlimit.core.policy_set import PolicySet
from fleetlimit.core.prefetch import PrefetchSpec
from fleetlimit.core.quota import (
    MILLISECOND_US,
    Algorithm,
    Quota,
    concurrency_quota,
    duration_us,
    parse_algorithm,
    rate_quota,
)
from fleetlimit.errors import ConfigError
from fleetlimit.limiter.reservation import Reservation
from fleetlimit.web.dependency_check import check, release_leases
from fleetlimit.web.http_limiter import HTTPLimiter
from fleetlimit.web.inline_policy import (
    Exempt,
    Key,
    LimitsFunction,
    PolicyOptions,
    call_repr,
    default_quotas,
    make_policy,
    to_cost,
)
from fleetlimit.web.rejections import require_truth_value
from fleetlimit.web.route_policies import Cost, NotFromRequest, RateLimitDependency


class _ReleasedLimit(RateLimitDependency):
    """Limit whose units may be leases, which are released after the request."""

    async def __call__(
        self, connection: HTTPConnection, response: Response, background: BackgroundTasks
    ) -> AsyncIterator[Reservation]:
        """Admit the request, or raise `RequestRejected`; release its units after the response."""
        request_limits, reservation = await check(self, connection, response)
        if request_limits.has_leases and not request_limits.headers_sent_by_middleware:
            # The first background task: FastAPI runs the others before it closes dependencies.
            background.add_task(request_limits.release_leases)
        try:
            yield reservation
        finally:
            await release_leases(request_limits)


class _InlineLimit(RateLimitDependency):
    """Limit that is written in code and has a policy of its own.

    Args:
        quotas: The limit in integers, or several of them.
        call: The call that makes the object, as its `repr`.
        options: The other arguments of that call.
    """

    def __init__(
        self, quotas: tuple[Quota, ...], call: str, **options: Unpack[PolicyOptions]
    ) -> None:
        self.cost = to_cost(options.get("cost", 1))
        self._policy = make_policy(quotas, **options)
        self._call = call

    def __repr__(self) -> str:
        return self._call

    def resolve_policy(self, http_limiter: HTTPLimiter) -> Policy:  # noqa: ARG002 - as in the base
        """Return the policy of this limit, which is the same for every limiter."""
        return self._policy

    def find_policy(self, policies: PolicySet) -> Policy:  # noqa: ARG002 - as in the base
        """Return the policy of this limit, which is in no set."""
        return self._policy


class _Windows(TypedDict):
    """Arguments of a window of a calendar."""

    timezone: str | None
    anchor: int | str | None


class RateLimit(_InlineLimit):
    """Limit on the rate of requests to the routes that depend on it.

    Args:
        rate: Units per period, such as `5/minute`, `100 per 90 s` or `1000/month`; or a function of
            the connection, plain or async, that returns the limits of the caller: a rate, a
            `Limit`, a list of them, or None for `default`. It is called for each request, and
            `default` applies if it fails.
        default: Limits of a caller without limits of its own, where `rate` is a function.
        burst: Units that can be spent at once; the number in `rate` by default. Only for
            `token_bucket`.
        algorithm: How the limit counts: by default `token_bucket`, and `fixed_window` for windows
            of a calendar.
        timezone: Time zone whose days, weeks, months or years are the windows, by its IANA name,
            such as `Europe/Berlin`; UTC by default. For `/day`, `/week`, `/month` and `/year`.
        anchor: First day of the windows: of a week a weekday (`monday`), of a month a day (1 to 31;
            a shorter month has it on its last day), of a year month and day (`01-01`).
        cost: Units that a request spends, or a function of the connection that returns them; or
            `Usage("openai")` for tokens that the answer of a large language model states, which
            needs `RateLimitMiddleware` on the app.
        key: Parts of the bucket's key: `principal`, `client_address`, `global`, `route`,
            `header:X-Name`, `path:parameter`, or a function of the connection, plain or async, that
            returns text; one, or a sequence. Each route has its own buckets unless the limit has a
            name.
        name: Name of the limit in metrics and headers; routes whose limits have one name share
            buckets. By default the name is made of the rate and of each other argument that is not
            the default, except `cost`.
        mode: Enforce the limit, only count what it would reject, or switch it off.
        on_store_error: Decision while the store is unavailable: by a limit local to the replica,
            admit, or reject.
        prefetch: Largest share of the limit that a replica acquires in one store call and spends
            locally, above 0 and at most 0.5; or `auto` for a sixteenth, for at most a second, from
            buckets that it asks repeatedly; `off` or None for none.
        exempt: Requests that are not limited: an `Exemption`, or a function of the connection,
            plain or async, that returns a `bool`. If the function fails, the request is limited.
        openapi: Whether the OpenAPI schema of the app states the limit.
        count: Statuses of the responses that count: `all`, `failure` for 400 to 599, or a list of
            statuses and classes of them, such as `[401, "5xx"]`. Each request spends its cost, and
            gets it back if its status does not count. It needs `RateLimitMiddleware` on the app.

    Raises:
        ConfigError: The arguments cannot work together; the message says what to write.
    """

    @advised('RateLimit("5/minute", burst=10)', LIMIT_NAMES)
    def __init__(
        self,
        rate: Annotated[str | LimitsFunction, NotFromRequest("RateLimit", '"5/minute"')],
        *,
        default: str | Limit | Sequence[str | Limit] | None = None,
        burst: int | None = None,
        algorithm: RateAlgorithm | None = None,
        timezone: str | None = None,
        anchor: int | str | None = None,
        cost: Cost = 1,
        key: Key = "principal",
        name: str | None = None,
        mode: ModeName = "enforce",
        on_store_error: OnStoreErrorName = "local",
        prefetch: PrefetchSpec | None = None,
        exempt: Exempt = None,
        openapi: bool = True,
        count: CountSpec = "all",
    ) -> None:
        parsed = None if algorithm is None else parse_algorithm(algorithm)
        if parsed is Algorithm.CONCURRENCY:
            raise ConfigError("concurrency has no rate: write ConcurrencyLimit(10)")
        options: PolicyOptions = {
            "cost": cost,
            "key": key,
            "name": name,
            "mode": mode,
            "on_store_error": on_store_error,
            "prefetch": prefetch,
            "exempt": exempt,
            "count": count,
        }
        windows: _Windows = {"timezone": timezone, "anchor": anchor}
        others = {"burst": burst, "algorithm": algorithm, **windows}
        call = call_repr(type(self), rate, default=default, **others, **options)
        if callable(rate):
            quotas = default_quotas(rate, default, others)
            options["limits_function"] = rate
            super().__init__(quotas, call, **options)
        elif default is not None:
            raise ConfigError(
                f"RateLimit({rate!r}, default=...) has two limits: leave out `default`, or write a "
                "function in place of the rate"
            )
        else:
            quota = rate_quota(rate, burst=burst, algorithm=parsed, **windows)
            super().__init__((quota,), call, **options)
        require_truth_value("openapi", openapi)
        self.openapi = openapi

    async def __call__(self, connection: HTTPConnection, response: Response) -> Reservation:
        """Admit the request, or raise `RequestRejected`."""
        # A plain coroutine: FastAPI's handling of generators doubles the cost of a dependency.
        _, reservation = await check(self, connection, response)
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
        exempt: As in `RateLimit`.
        openapi: As in `RateLimit`.

    Raises:
        ConfigError: The arguments cannot work together; the message says what to write.
    """

    @advised(
        "ConcurrencyLimit(10)",
        {
            **LIMIT_NAMES,
            "ttl": "write lease=",
            **dict.fromkeys(("when", "count"), "write RateLimit(..., count=...)"),
        },
    )
    def __init__(
        self,
        limit: Annotated[int, NotFromRequest("ConcurrencyLimit", "10")],
        *,
        lease: float | timedelta = 30,
        cost: Cost = 1,
        key: Key = "principal",
        name: str | None = None,
        mode: ModeName = "enforce",
        on_store_error: OnStoreErrorName = "local",
        exempt: Exempt = None,
        openapi: bool = True,
    ) -> None:
        if isinstance(limit, str):
            raise ConfigError(
                f"ConcurrencyLimit({limit!r}) has no number of requests: write ConcurrencyLimit(4) "
                'for 4 at a time, or RateLimit("4/minute")'
            )
        options: PolicyOptions = {
            "cost": cost,
            "key": key,
            "name": name,
            "mode": mode,
            "on_store_error": on_store_error,
            "exempt": exempt,
        }
        call = call_repr(type(self), limit, lease=lease, **options)
        super().__init__((concurrency_quota(limit, lease=lease),), call, **options)
        require_truth_value("openapi", openapi)
        self.openapi = openapi


class PolicyLimit(_ReleasedLimit):
    """Limit by a policy of the policy file, or of the `PolicySet` that `Fleetlimit` was given.

    Limits, key and mode stand in the policy; a reload changes them.

    Args:
        name: Name of the policy.
        cost: Units that a request spends, or a function of the connection that returns them, or
            `Usage`; by default the `cost` of the policy, or 1.
        openapi: As in `RateLimit`.

    Raises:
        ConfigError: The cost is negative, no whole number and no function.
    """

    @advised(
        'PolicyLimit("exports"), with the name of a policy of the policy file',
        {
            "policies": 'write PolicyLimit("exports") for each policy',
            "policy": 'write PolicyLimit("exports")',
            **dict.fromkeys(
                ("key", "rate", "limits", "mode", "burst", "algorithm"),
                "write it in the policy, in the policy file",
            ),
            **dict.fromkeys(("when", "count"), "write count: into the policy of the policy file"),
        },
    )
    def __init__(
        self,
        name: Annotated[str, NotFromRequest("PolicyLimit", '"exports"')],
        *,
        cost: Cost | None = None,
        openapi: bool = True,
    ) -> None:
        if not isinstance(name, str):
            raise ConfigError(
                f'PolicyLimit({name!r}) has no name of a policy: write PolicyLimit("exports")'
            )
        self.name = name
        self.cost = None if cost is None else to_cost(cost)
        require_truth_value("openapi", openapi)
        self.openapi = openapi

    def __repr__(self) -> str:
        return call_repr(type(self), self.name, cost=self.cost)

    def resolve_policy(self, http_limiter: HTTPLimiter) -> Policy:
        """Return the active policy of this name.

        Raises:
            ConfigError: There is none.
        """
        return http_limiter.limiter.active_policies.require(self.name)

    def find_policy(self, policies: PolicySet) -> Policy | None:
        """Return the policy of this name, or None."""
        return policies.get(self.name)


class _WindowLimit(RateLimit):
    """`RateLimit` whose window may be a fraction of a second, which no rate in text can state."""

    def __init__(self, limit: int, window: float | timedelta) -> None:
        period_us = duration_us(window) // MILLISECOND_US * MILLISECOND_US
        quota = Quota(Algorithm.TOKEN_BUCKET, limit, period_us, limit)
        _InlineLimit.__init__(self, (quota,), f"rate_limit(limit={limit!r}, window={window!r})")


@advised(
    'rate_limit(limit=5, window=60), or RateLimit("5/minute")',
    {
        **dict.fromkeys(("times", "seconds", "requests", "calls", "period"), rate_advice),
        **dict.fromkeys(
            ("key", "burst", "cost", "name", "mode", "algorithm", "on_store_error"),
            'write RateLimit("5/minute", ...), which has this argument',
        ),
    },
)
def rate_limit(
    limit: Annotated[int, NotFromRequest("rate_limit", "limit=5, window=60")],
    window: float | timedelta,
) -> RateLimit:
    """Allow `limit` requests per `window` for each caller on each route.

    Args:
        limit: Number of requests.
        window: Seconds, or a `timedelta`, in which a spent limit refills; whole milliseconds.

    Raises:
        ConfigError: The numbers allow no request.
    """
    if isinstance(limit, str):
        raise ConfigError(f"rate_limit({limit!r}, ...) has a rate: write RateLimit({limit!r})")
    return _WindowLimit(limit, window)


def _advise_decorators(method: Any) -> None:
    """Name the mistake in Python's own error for a limit that is called like a decorator.

    `@RateLimit("5/minute")` calls the limit with the function alone. FastAPI needs a coroutine
    function or an async generator here, and neither can raise an error in the call itself.
    """
    method.__qualname__ = (
        "a limit is neither a decorator nor a middleware, write "
        "@app.get(..., dependencies=[Depends(RateLimit(...))]): __call__"
    )


_advise_decorators(RateLimit.__call__)
_advise_decorators(_ReleasedLimit.__call__)
