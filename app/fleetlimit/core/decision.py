"""What was decided about a request, and the figures that a client is told.

Named tuples: several are made for each request, at a third of what a frozen dataclass costs.
"""

from enum import StrEnum
from typing import Final, NamedTuple

from fleetlimit.core.policy import Mode
from fleetlimit.core.quota import Quota


class BucketStatus(NamedTuple):
    """What one bucket says of one charge; all times are microseconds from now.

    Args:
        allowed: Whether the charge fits.
        remaining: Units available, after the charge if it was spent.
        retry_after_us: Until the same charge would fit if nobody else spends; 0 when it fits.
        next_unit_after_us: Until more than `remaining` is available; 0 when the bucket is full.
        reset_after_us: Until the bucket is full again.
    """

    allowed: bool
    remaining: int
    retry_after_us: int
    next_unit_after_us: int
    reset_after_us: int


class Outcome(StrEnum):
    """What became of a request under one policy, and as a whole."""

    ALLOWED = "allowed"
    DENIED = "denied"
    SHADOW_DENIED = "shadow_denied"
    FAIL_OPEN = "fail_open"
    FAIL_CLOSED = "fail_closed"
    EXEMPT = "exempt"


ALLOWED: Final = Outcome.ALLOWED
DENIED: Final = Outcome.DENIED
"""For those who see every request: before Python 3.12 a look into the class is three calls long, by
`python -m timeit -s 'from fleetlimit.core.decision import Outcome' Outcome.DENIED`."""
REJECTED_OUTCOMES: Final = frozenset({Outcome.DENIED, Outcome.FAIL_CLOSED})
"""Of a policy, or of all together: the request is turned away."""


class Source(StrEnum):
    """Where a decision came from."""

    STORE = "store"
    CACHE = "cache"
    LOCAL = "local"
    NONE = "none"


class LimitResult(NamedTuple):
    """One limit of a policy and its verdict; None where the limit was not asked."""

    quota: Quota
    status: BucketStatus | None = None


class PolicyResult(NamedTuple):
    """One policy's part in a decision.

    Args:
        policy: The policy's name.
        mode: `enforce`, or `shadow` where the policy or the key's percentage says so.
        outcome: What the policy said; a policy that would have let a refused request in says
            `allowed`, and has spent nothing.
        quotas: Its limits, in the policy's order.
        statuses: What each of them said; None where it was not asked.
    """

    policy: str
    mode: Mode
    outcome: Outcome
    quotas: tuple[Quota, ...] = ()
    statuses: tuple[BucketStatus | None, ...] = ()

    @property
    def limits(self) -> tuple[LimitResult, ...]:
        """Each limit with its verdict."""
        return tuple(map(LimitResult, self.quotas, self.statuses))


class Decision(NamedTuple):
    """What was decided about one request.

    Args:
        outcome: What became of the request; `shadow_denied` and `fail_open` let it in.
        source: Where the answer came from.
        results: One result for each policy that held the request.
        retry_after_us: How long a refused client should wait, in microseconds; 0 otherwise.
        spent: Whether the cost was taken from the buckets.
    """

    outcome: Outcome
    source: Source
    results: tuple[PolicyResult, ...] = ()
    retry_after_us: int = 0
    spent: bool = False

    @property
    def allowed(self) -> bool:
        """Whether the request is let in."""
        return self.outcome not in REJECTED_OUTCOMES

    @property
    def denied_by(self) -> tuple[str, ...]:
        """Names of the policies that refused the request."""
        return tuple([each.policy for each in self.results if each.outcome in REJECTED_OUTCOMES])


EXEMPT = Decision(Outcome.EXEMPT, Source.NONE)
"""The decision about a request that no policy holds."""
