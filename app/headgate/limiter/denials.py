"""Denials remembered until the store's promise, so that a flood costs the store nothing.

An entry is believed for at most a second, which bounds how long a reset or refund at one replica
stays unknown to the others. Only the very charge that was refused is believed to be: a smaller one
may still fit, a larger one has to wait for longer, and another quota is another policy's word.
"""

from collections import OrderedDict
from collections.abc import Sequence

from headgate.core.charge import Charge
from headgate.core.decision import Verdict
from headgate.core.quota import SECOND_US, Algorithm
from headgate.limiter.ports import Clock

MAX_AGE_US = SECOND_US
MAX_ENTRIES = 10_000


class DenialCache:
    """Buckets that are known to refuse.

    Args:
        clock: The process's own time.
        max_entries: Buckets remembered; the one not asked for longest is dropped first.
    """

    def __init__(self, clock: Clock, *, max_entries: int = MAX_ENTRIES) -> None:
        self._clock = clock
        self._max_entries = max_entries
        self._entries: OrderedDict[str, tuple[int, Charge, Verdict]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def remember(self, charge: Charge, verdict: Verdict) -> None:
        """Remember a refusal. A lease may end at any time, so concurrency is not remembered."""
        if charge.quota.algorithm is Algorithm.CONCURRENCY:
            return
        self._entries[charge.key] = (self._clock.now_us(), charge, verdict)
        self._entries.move_to_end(charge.key)
        if len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)

    def refusals(self, charges: Sequence[Charge]) -> dict[int, Verdict]:
        """Return what is still known to refuse, by the charge's place, with the time that is left.

        Only charges of group 0 are looked up: the other groups refuse nothing.
        """
        if not self._entries:
            return {}
        found = {}
        for place, charge in enumerate(charges):
            if charge.group == 0 and (verdict := self._refusal(charge)) is not None:
                found[place] = verdict
        return found

    def _refusal(self, charge: Charge) -> Verdict | None:
        entry = self._entries.get(charge.key)
        if entry is None:
            return None
        since_us, refused, verdict = entry
        age_us = self._clock.now_us() - since_us
        if age_us >= min(verdict.retry_us, MAX_AGE_US):
            del self._entries[charge.key]
            return None
        if (charge.units, charge.quota) != (refused.units, refused.quota):
            return None
        self._entries.move_to_end(charge.key)
        fits, remaining, retry_us, next_us, reset_us = verdict
        return Verdict(
            fits, remaining, retry_us - age_us, max(1, next_us - age_us), max(1, reset_us - age_us)
        )

    def forget(self, keys: Sequence[str]) -> None:
        """Drop what is known of these buckets."""
        for key in keys:
            self._entries.pop(key, None)

    def clear(self) -> None:
        """Drop everything."""
        self._entries.clear()
