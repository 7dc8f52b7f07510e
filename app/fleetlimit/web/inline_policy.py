"""Policy of a limit that is written in code: its default name, and checks of its arguments."""

import hashlib
import re
from collections.abc import Sequence
from typing import Final, TypedDict

from fleetlimit.core.policy import (
    MAX_NAME_CHARS,
    KeyKind,
    KeyPart,
    ModeName,
    OnStoreErrorName,
    Policy,
)
from fleetlimit.core.quota import SECOND_US, Algorithm, Quota, check_cost
from fleetlimit.errors import ConfigError, CostError
from fleetlimit.limiter.app_function import require_cost_function
from fleetlimit.web.route_policies import Cost

_DIGEST_CHARS: Final = 8
"""Hexadecimal digits of the hash in a default name that would not be unique without it."""


class PolicyOptions(TypedDict, total=False):
    """Arguments that every limit written in code accepts."""

    cost: Cost
    key: str | Sequence[str]
    name: str | None
    mode: ModeName
    on_store_error: OnStoreErrorName
    prefetch: float | None


def make_policy(
    quota: Quota,
    *,
    cost: Cost = 1,
    key: str | Sequence[str] = "principal",
    name: str | None = None,
    mode: ModeName = "enforce",
    on_store_error: OnStoreErrorName = "local",
    prefetch: float | None = None,
) -> Policy:
    """Return the policy of a limit.

    Args:
        quota: The limit in integers.
        cost: As in `RateLimit`, like the other arguments.
        key: As in `RateLimit`.
        name: As in `RateLimit`.
        mode: As in `RateLimit`.
        on_store_error: As in `RateLimit`.
        prefetch: As in `RateLimit`.

    Raises:
        ConfigError: The arguments cannot work together, or no bucket can ever hold the cost.
    """
    parts = tuple(map(KeyPart.parse, [key] if isinstance(key, str) else key))
    if not parts:
        raise ConfigError("an empty key: write principal, client_address or global")
    policy = Policy(
        _default_name(quota, parts, mode, on_store_error, prefetch) if name is None else name,
        quota,
        key=(*parts, KeyPart(KeyKind.ROUTE)) if name is None else parts,
        mode=mode,
        on_store_error=on_store_error,
        prefetch=prefetch,
    )
    # With `prefetch` the burst is smaller than the one that was given.
    (reduced,) = policy.quotas_for("")
    if not callable(cost):
        try:
            reduced.units_for(cost)
        except CostError as error:
            largest = reduced.burst // reduced.cost
            raise ConfigError(
                f"{error}: write a cost from 0 to {largest}, or a larger burst"
            ) from error
    return policy


def to_cost(cost: Cost) -> Cost:
    """Return a cost as an `int` from 0, or as a function.

    Raises:
        ConfigError: The cost is neither, or the function cannot be called with the connection.
    """
    if not callable(cost):
        try:
            return check_cost(cost)
        except CostError as error:
            raise ConfigError(f"{error}: write a number from 0, or a function") from error
    require_cost_function(cost)
    return cost


def _default_name(
    quota: Quota,
    key: tuple[KeyPart, ...],
    mode: ModeName,
    on_store_error: OnStoreErrorName,
    prefetch: float | None,
) -> str:
    """Return a name that differs from those of all other limits on the same route."""
    # Twelve digits state each millisecond of the longest period.
    parts = [f"{quota.limit}/{quota.period_us / SECOND_US:.12g}s"]
    if quota.algorithm is not Algorithm.TOKEN_BUCKET:
        parts.append(quota.algorithm)
    if quota.burst != quota.limit:
        parts.append(f"burst{quota.burst}")
    if mode != "enforce":
        parts.append(mode)
    if on_store_error != "local":
        parts.append(on_store_error)
    if prefetch is not None:
        parts.append(f"prefetch{prefetch}")
    if key != (KeyPart(KeyKind.PRINCIPAL),):
        parts += [str(part) for part in key]
    exact = "-".join(parts)
    name = re.sub(r"[^\w./-]", "-", exact, flags=re.ASCII)
    # `-` separates the parts of a key and is common in header names; other characters of a header
    # name are replaced.
    has_header = any(part.name for part in key)
    replaced = name != exact.replace(":", "-")
    if replaced or len(name) > MAX_NAME_CHARS or (has_header and len(key) > 1):
        digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:_DIGEST_CHARS]
        name = f"{name[: MAX_NAME_CHARS - _DIGEST_CHARS - 1]}-{digest}"
    return name
