"""Policy of a limit that is written in code: its default name, and checks of its arguments."""

import hashlib
import inspect
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypedDict

from fleetlimit.core.counted_statuses import CountedStatuses, CountSpec, parse_count
from fleetlimit.core.exemption import Exemption, ExemptionSource, to_exemption
from fleetlimit.core.key_parts import KeyKind, KeyPart, parse_key
from fleetlimit.core.limit import Limit, resolve_limits
from fleetlimit.core.policy import MAX_NAME_CHARS, ModeName, OnStoreErrorName, Policy
from fleetlimit.core.policy_function import PolicyFunction
from fleetlimit.core.prefetch import PrefetchSpec
from fleetlimit.core.quota import SECOND_US, Algorithm, Quota, check_cost
from fleetlimit.core.usage import Usage, require_settleable
from fleetlimit.errors import ConfigError, CostError
from fleetlimit.limiter.app_function import require_cost_function
from fleetlimit.limiter.provided_limits import OwnLimits
from fleetlimit.web.route_policies import Cost, require_functions

Exempt = Exemption | Callable[[Any], bool | Awaitable[bool]] | None
"""Requests that a limit in code does not limit: lists, or a function that returns a `bool`.

The function receives a `Request`, or the `HTTPConnection` of a WebSocket. Its argument is typed as
`Any`, so that either may be written.
"""
LimitsFunction = Callable[[Any], OwnLimits | Awaitable[OwnLimits]]
"""Function of the connection that returns the limits of the caller, or None for the default. It
receives what a function of `Exempt` receives."""
Key = str | Callable[[Any], Any] | Sequence[str | Callable[[Any], Any]]
"""Key of a limit in code: one component, or several."""
_DIGEST_CHARS: Final = 8
"""Hexadecimal digits of the hash in a default name that would not be unique without it."""


class PolicyOptions(TypedDict, total=False):
    """Arguments that every limit written in code accepts."""

    cost: Cost
    key: Key
    name: str | None
    mode: ModeName
    on_store_error: OnStoreErrorName
    prefetch: PrefetchSpec | None
    exempt: Exempt
    limits_function: LimitsFunction | None
    count: CountSpec


def make_policy(
    quotas: tuple[Quota, ...],
    *,
    cost: Cost = 1,
    key: Key = "principal",
    name: str | None = None,
    mode: ModeName = "enforce",
    on_store_error: OnStoreErrorName = "local",
    prefetch: PrefetchSpec | None = None,
    exempt: Exempt = None,
    limits_function: LimitsFunction | None = None,
    count: CountSpec = "all",
) -> Policy:
    """Return the policy of a limit.

    Args:
        quotas: The limit in integers, or several of them.
        cost: As in `RateLimit`, like the other arguments.
        key: As in `RateLimit`.
        name: As in `RateLimit`.
        mode: As in `RateLimit`.
        on_store_error: As in `RateLimit`.
        prefetch: As in `RateLimit`.
        exempt: As in `RateLimit`.
        limits_function: Function that returns the limits of a caller, in place of `quotas`.
        count: As in `RateLimit`.

    Raises:
        ConfigError: The arguments cannot work together, or no bucket can ever hold the cost.
    """
    parts = parse_key(key)
    if not parts:
        raise ConfigError("an empty key: write principal, client_address or global")
    counted = parse_count(count)
    default_name = _default_name(
        quotas,
        parts,
        mode=mode,
        on_store_error=on_store_error,
        prefetch=prefetch,
        exempt=to_exemption(exempt),
        limits_function=limits_function,
        count=counted,
    )
    policy = Policy(
        default_name if name is None else name,
        quotas,
        key=(*parts, KeyPart(KeyKind.ROUTE)) if name is None else parts,
        mode=mode,
        on_store_error=on_store_error,
        prefetch=prefetch,
        exempt=exempt,
        limits_function=limits_function,
        count=counted,
    )
    require_functions(policy)
    if isinstance(cost, Usage):
        require_settleable(
            policy.name, counted, cost, policy.quota_sets(), has_leases=policy.has_leases
        )
        return policy
    if callable(cost):
        return policy
    for quota in policy.quotas_for(""):
        try:
            quota.units_for(cost)
        except CostError as error:
            largest = quota.burst // quota.cost
            raise ConfigError(
                f"{error}: write a cost from 0 to {largest}, or a larger burst"
            ) from error
    return policy


def default_quotas(
    function: object,
    default: str | Limit | Sequence[str | Limit] | None,
    others: Mapping[str, object],
) -> tuple[Quota, ...]:
    """Return the limits that apply where the function of a `RateLimit` returns None.

    Raises:
        ConfigError: There are none, or an argument belongs to a rate in text.
    """
    name = getattr(function, "__name__", "function")
    if default is None:
        raise ConfigError(
            f"RateLimit({name}) has no limit for callers without one of their own: write "
            f'RateLimit({name}, default="10/minute")'
        )
    for each, value in others.items():
        if value is not None:
            raise ConfigError(
                f"{each}={value!r} belongs to a rate in text: return Limit.rate(..., {each}=...) "
                "from the function, and write default=Limit.rate(...)"
            )
    quotas = resolve_limits(default)
    if any(quota.algorithm is Algorithm.CONCURRENCY for quota in quotas):
        raise ConfigError("concurrency has no rate: write a ConcurrencyLimit(10) beside it")
    return quotas


def to_cost(cost: Cost) -> Cost:
    """Return a cost as an `int` from 0, as a function, or as `Usage`.

    Raises:
        ConfigError: The cost is neither, or the function cannot be called with the connection.
    """
    if isinstance(cost, Usage):
        return cost
    if not callable(cost):
        try:
            return check_cost(cost)
        except CostError as error:
            raise ConfigError(f"{error}: write a number from 0, or a function") from error
    require_cost_function(cost)
    return cost


def _default_name(
    quotas: tuple[Quota, ...],
    key: tuple[KeyPart, ...],
    *,
    mode: ModeName,
    on_store_error: OnStoreErrorName,
    prefetch: PrefetchSpec | None,
    exempt: ExemptionSource | None,
    limits_function: LimitsFunction | None,
    count: CountedStatuses | None,
) -> str:
    """Return a name that differs from those of all other limits on the same route."""
    parts = [word for quota in quotas for word in _limit_words(quota)]
    if limits_function is not None:
        parts.append(f"limits-{_digest(PolicyFunction(limits_function).name)}")
    if mode != "enforce":
        parts.append(mode)
    if on_store_error != "local":
        parts.append(on_store_error)
    if prefetch is not None and prefetch != "off":
        parts.append(f"prefetch-{prefetch}")
    if exempt is not None:
        parts.append(f"exempt-{_digest(repr(exempt))}")
    if count is not None:
        parts.append(f"count-{count.text}")
    if key != (KeyPart(KeyKind.PRINCIPAL),):
        parts += [str(part) for part in key]
    exact = "-".join(parts)
    name = re.sub(r"[^\w./-]", "-", exact, flags=re.ASCII)
    # `-` separates the parts of a key and is common in header names; other characters of a header
    # name are replaced.
    has_header = any(part.name for part in key)
    replaced = name != exact.replace(":", "-")
    if replaced or len(name) > MAX_NAME_CHARS or (has_header and len(key) > 1):
        digest = _digest("\n".join(parts))
        name = f"{name[: MAX_NAME_CHARS - _DIGEST_CHARS - 1]}-{digest}"
    return name


def _limit_words(quota: Quota) -> list[str]:
    """Return what a limit's name states of its numbers."""
    calendar = quota.calendar
    if calendar is not None:
        parts = [f"{quota.limit}/{calendar.unit}", calendar.timezone]
        parts += [] if calendar.anchor is None else [str(calendar.anchor)]
    else:
        # Twelve digits state each millisecond of the longest period.
        parts = [f"{quota.limit}/{quota.period_us / SECOND_US:.12g}s"]
        if quota.algorithm is not Algorithm.TOKEN_BUCKET:
            parts.append(quota.algorithm)
    if quota.burst != quota.limit:
        parts.append(f"burst{quota.burst}")
    return parts


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_CHARS]


def call_repr(kind: type, *arguments: object, **options: object) -> str:
    """Return the call that makes an object, without the options that have their default."""
    # Not of the class, whose `__new__` has others.
    parameters = inspect.signature(kind.__init__).parameters  # type: ignore[misc]  # no instance
    given = [
        f"{name}={value!r}" for name, value in options.items() if value != parameters[name].default
    ]
    return f"{kind.__name__}({', '.join([*map(repr, arguments), *given])})"
