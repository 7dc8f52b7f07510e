"""Denials remembered until the store's promise, so that a flood costs the store nothing.

An entry is believed for at most a second, which bounds how long a reset or refund at one replica
stays unknown to the others. Only the very charge that was refused is believed to be: a smaller one
may still fit, a larger one has to wait for longer, and another quota is another policy's word.
"""

from collections import OrderedDict
from collections.abc import Sequence

from fleetlimit.core.charge import Charge
from fleetlimit.core.decision import BucketStatus, Decision, Source
from fleetlimit.core.quota import MILLISECOND_US, SECOND_US, Algorithm
from fleetlimit.limiter.plan import Plan, decision_of
from fleetlimit.limiter.ports import Clock

MAX_AGE_US = SECOND_US
MAX_ENTRIES = 10_000
DECISION_REUSE_US = 10 * MILLISECOND_US
"""For how long a decision is given again as it is. Its figures are late by as much at most, and to
make it anew is the largest part of what a refusal in a flood costs."""


class _CachedDenial:
    """A charge that was refused, and the decision that was last made of it."""

    __slots__ = ("charge", "decision", "mono_added_at_us", "mono_reuse_until_us", "plan", "status")

    def __init__(self, charge: Charge, status: BucketStatus, mono_added_at_us: int) -> None:
        self.charge = charge
        self.status = status
        self.mono_added_at_us = mono_added_at_us
        self.plan: Plan | None = None
        self.decision: Decision | None = None
        self.mono_reuse_until_us = mono_added_at_us

    @property
    def mono_expires_at_us(self) -> int:
        """When it is not believed any more."""
        return self.mono_added_at_us + min(self.status.retry_after_us, MAX_AGE_US)


class DenialCache:
    """Buckets that are known to refuse.

    Args:
        clock: The process's own time.
        max_entries: Buckets remembered; the one not asked for longest is dropped first.
    """

    def __init__(self, clock: Clock, *, max_entries: int = MAX_ENTRIES) -> None:
        self._clock = clock
        self._max_entries = max_entries
        self._entries: OrderedDict[str, _CachedDenial] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, charge: Charge, status: BucketStatus) -> None:
        """Remember a refusal. A lease may end at any time, so concurrency is not remembered."""
        if charge.quota.algorithm is Algorithm.CONCURRENCY:
            return
        self._entries[charge.key] = _CachedDenial(charge, status, self._clock.monotonic_us())
        self._entries.move_to_end(charge.key)
        if len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)

    def lookup(self, plan: Plan, mono_now_us: int) -> Decision | None:
        """Return the refusal of a plan of which a charge is known to be refused, if one is.

        Args:
            plan: What a check asks.
            mono_now_us: When it does, by the clock.
        """
        if not self._entries:
            return None
        for charge in plan.charges:
            known = self._entries.get(charge.key)
            if known is not None and known.plan is plan and mono_now_us < known.mono_reuse_until_us:
                return known.decision
        verdicts = self._statuses(plan.charges, mono_now_us)
        for charge, verdict in zip(plan.charges, verdicts, strict=True):
            if verdict is not None:
                decision = decision_of(plan, verdicts, source=Source.CACHE, spent=False)
                known = self._entries[charge.key]
                known.plan, known.decision = plan, decision
                known.mono_reuse_until_us = min(
                    mono_now_us + DECISION_REUSE_US, known.mono_expires_at_us
                )
                return decision
        return None

    def _statuses(self, charges: Sequence[Charge], mono_now_us: int) -> list[BucketStatus | None]:
        """Return for each charge what is still known to refuse it, with the time that is left.

        Only charges of group 0 are looked up: the other groups refuse nothing.
        """
        return [None if charge.group else self._status(charge, mono_now_us) for charge in charges]

    def _status(self, charge: Charge, mono_now_us: int) -> BucketStatus | None:
        known = self._entries.get(charge.key)
        if known is None:
            return None
        if mono_now_us >= known.mono_expires_at_us:
            del self._entries[charge.key]
            return None
        if (charge.units, charge.quota) != (known.charge.units, known.charge.quota):
            return None
        self._entries.move_to_end(charge.key)
        age_us = mono_now_us - known.mono_added_at_us
        fits, remaining, retry_us, next_us, reset_us = known.status
        return BucketStatus(
            fits, remaining, retry_us - age_us, max(1, next_us - age_us), max(1, reset_us - age_us)
        )

    def discard(self, keys: Sequence[str]) -> None:
        """Drop what is known of these buckets."""
        for key in keys:
            self._entries.pop(key, None)

    def clear(self) -> None:
        """Drop everything."""
        self._entries.clear()
