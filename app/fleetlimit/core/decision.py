"""Decisions: the answer for a request, and the bucket statuses that it was made from.

Treat these values as immutable: the denial cache shares them between requests. The ones that are
made for every request are not `frozen`, because the constructor of a frozen dataclass takes about
five times as long.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from fleetlimit.core.policy import Mode
from fleetlimit.core.quota import SECOND_US, Algorithm, Quota


def ceil_seconds(duration_us: int) -> int:
    """Return whole seconds, rounded up, of a duration in microseconds."""
    return -(-duration_us // SECOND_US)


@dataclass(slots=True)
class BucketStatus:
    """Answer of one bucket to one charge. Durations begin at the time of the answer.

    The `_us` fields are the exact internal values; the properties in seconds are for users.

    Args:
        allowed: Whether the charge fits.
        remaining: Units available, after the charge if it was spent.
        retry_after_us: Microseconds until the same charge would fit if no other request spends; 0
            when it fits.
        next_unit_after_us: Microseconds until more than `remaining` units are available; 0 when
            the bucket is full.
        reset_after_us: Microseconds until the bucket is full.
    """

    allowed: bool
    remaining: int
    retry_after_us: int
    next_unit_after_us: int
    reset_after_us: int

    @property
    def retry_after(self) -> float:
        """Seconds until the same charge would fit if no other request spends; 0 when it fits."""
        return self.retry_after_us / SECOND_US

    @property
    def next_unit_after(self) -> float:
        """Seconds until more than `remaining` units are available; 0 when the bucket is full."""
        return self.next_unit_after_us / SECOND_US

    @property
    def reset_after(self) -> float:
        """Seconds until the bucket is full."""
        return self.reset_after_us / SECOND_US


def correct_status(
    status: BucketStatus, quota: Quota, delta: int, store_now_us: int
) -> BucketStatus:
    """Return the status of a bucket after its charge was corrected.

    The bucket has at least these units if no other request spent: of a refund, units that have
    refilled meanwhile are not returned again, but they are not in `status` either.

    Args:
        status: Status after the charge.
        quota: Quota of the bucket.
        delta: Units that were spent in addition; negative for a refund.
        store_now_us: Store time of the status.
    """
    remaining = min(max(status.remaining - delta, 0), quota.burst)
    if remaining == quota.burst:
        return BucketStatus(status.allowed, remaining, status.retry_after_us, 0, 0)
    if quota.algorithm is Algorithm.TOKEN_BUCKET:
        # A bucket owes at most two bursts.
        reset_us = status.reset_after_us - (-delta * quota.period_us // quota.limit)
        reset_us = min(max(reset_us, 0), 2 * quota.refill_us)
        later_units = quota.burst - remaining - 1
        next_us = max(0, reset_us - later_units * quota.period_us // quota.limit)
    else:
        # A full bucket has no times: its window begins with the correction.
        window_us = quota.period_us
        if quota.calendar is not None:
            window_us = quota.calendar.window_at(store_now_us)[1] - store_now_us
        reset_us = status.reset_after_us or window_us
        next_us = status.next_unit_after_us or window_us
    return BucketStatus(status.allowed, remaining, status.retry_after_us, next_us, reset_us)


class Outcome(StrEnum):
    """Result of a check, for one policy or for all of them together."""

    ALLOWED = "allowed"
    DENIED = "denied"
    SHADOW_DENIED = "shadow_denied"
    FAIL_OPEN = "fail_open"
    FAIL_CLOSED = "fail_closed"
    EXEMPT = "exempt"


ALLOWED: Final = Outcome.ALLOWED
DENIED: Final = Outcome.DENIED
"""For code that runs in every request: before Python 3.12 reading a member from an enum class
takes three function calls."""
REJECTED_OUTCOMES: Final = frozenset({Outcome.DENIED, Outcome.FAIL_CLOSED})
"""Outcomes that reject the request."""


class Source(StrEnum):
    """Where a decision came from."""

    STORE = "store"
    PREFETCH = "prefetch"
    CACHE = "cache"
    LOCAL = "local"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class LimitResult:
    """One limit of a policy and its bucket's status; None if the bucket was not checked."""

    quota: Quota
    status: BucketStatus | None = None


@dataclass(slots=True)
class PolicyResult:
    """One policy's part in a decision.

    Args:
        policy: Name of the policy.
        mode: `enforce`, or `shadow` if the policy or its `enforce_percent` says so.
        outcome: Result under this policy. In a request that another policy denied, `allowed`
            means that this policy would have admitted it; nothing was spent.
        quotas: The policy's quotas, in its order.
        statuses: Status of each quota's bucket; None if the bucket was not checked.
        is_own: Whether the quotas are the caller's own, and not the policy's.
    """

    policy: str
    mode: Mode
    outcome: Outcome
    quotas: tuple[Quota, ...] = ()
    statuses: tuple[BucketStatus | None, ...] = ()
    is_own: bool = False

    @property
    def limits(self) -> tuple[LimitResult, ...]:
        """Each limit with the status of its bucket."""
        return tuple(map(LimitResult, self.quotas, self.statuses))


@dataclass(slots=True)
class Decision:
    """Answer for one request.

    `retry_after_us` is the exact internal value; `retry_after`, in seconds, is for users.

    Args:
        outcome: Result of the check; `shadow_denied` and `fail_open` admit the request.
        source: Where the decision came from.
        results: One result for each policy that applies to the request.
        retry_after_us: Microseconds that a denied client should wait; 0 otherwise.
        spent: Whether the cost was spent from the buckets.
    """

    outcome: Outcome
    source: Source
    results: tuple[PolicyResult, ...] = ()
    retry_after_us: int = 0
    spent: bool = False

    @property
    def allowed(self) -> bool:
        """Whether the request is admitted."""
        return self.outcome not in REJECTED_OUTCOMES

    @property
    def retry_after(self) -> float:
        """Seconds that a denied client should wait; 0 otherwise."""
        return self.retry_after_us / SECOND_US

    @property
    def denied_by(self) -> tuple[str, ...]:
        """Names of the policies that denied the request."""
        return tuple([each.policy for each in self.results if each.outcome in REJECTED_OUTCOMES])


EXEMPT: Final = Decision(Outcome.EXEMPT, Source.NONE)
"""Decision for a request to which no policy applies."""
