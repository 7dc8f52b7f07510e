"""Own limits: limits of one caller in place of a policy's, as a function of the app names them."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

from fleetlimit.core.limit import Limit, resolve_limits
from fleetlimit.core.policy import Policy
from fleetlimit.core.quota import Algorithm, Quota
from fleetlimit.core.subject import Subject

_MAX_LIMITS: Final = 8
"""Most own limits of a caller under one policy: each is one bucket of every check."""
_CACHED_TEXTS: Final = 1_024


def parse_own_limits(answer: Any, role: str) -> tuple[Quota, ...] | None:
    """Return the limits that a function of the app has returned; None for those of the policy.

    Args:
        answer: A rate such as `100/minute`, a `Limit`, a sequence of both, or None.
        role: What the function is for; for messages.

    Raises:
        TypeError: The answer is none of these.
        ValueError: It has no limit, too many, a concurrency limit, or two of one period.
    """
    if answer is None:
        return None
    if isinstance(answer, str):
        return _parse_text(answer)
    items = tuple(answer) if isinstance(answer, list | tuple) else (answer,)
    if not all(isinstance(each, str | Limit | Quota) for each in items):
        raise TypeError(
            f"the {role} returned {answer!r}: return a rate such as '100/minute', a Limit, a list "
            "of them, or None for the limits of the policy"
        )
    if not 0 < len(items) <= _MAX_LIMITS:
        raise ValueError(
            f"the {role} returned {len(items)} limits: return 1 to {_MAX_LIMITS}, or None for the "
            "limits of the policy"
        )
    quotas = resolve_limits(items)
    if any(quota.algorithm is Algorithm.CONCURRENCY for quota in quotas):
        raise ValueError(f"the {role} returned a concurrency limit: return rates only")
    if len({quota.name for quota in quotas}) < len(quotas):
        raise ValueError(f"the {role} returned two limits of one period: return the lower one")
    return quotas


@lru_cache(_CACHED_TEXTS)
def _parse_text(rate: str) -> tuple[Quota, ...]:
    return resolve_limits(rate)


def can_have_own_limits(policy: Policy) -> bool:
    """Return whether a policy has limits that those of a caller can replace: rates."""
    return any(
        quota.algorithm is not Algorithm.CONCURRENCY
        for quotas in policy.quota_sets()
        for quota in quotas
    )


def with_concurrency(own: tuple[Quota, ...], policy: Policy, subject: Subject) -> tuple[Quota, ...]:
    """Return own limits with the concurrency limits of the policy, which they do not replace."""
    if not policy.has_leases:
        return own
    kept: Sequence[Quota] = policy.quotas_for(subject.tier)
    return (*own, *(quota for quota in kept if quota.algorithm is Algorithm.CONCURRENCY))
