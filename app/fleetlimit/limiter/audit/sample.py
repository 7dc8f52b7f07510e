"""What this replica let in, slot by slot, for a sample of callers that all replicas agree on.

Of each limit the callers with the smallest hashes are counted. Who is among the smallest of all is
among the smallest of every replica that saw it: nothing has to be agreed on. Only what the shared
store let in is counted, and by the time at which it did.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence

from fleetlimit.core.charge import Settlement
from fleetlimit.core.keys import caller_of, policy_of
from fleetlimit.core.quota import SECOND_US, Quota
from fleetlimit.limiter.audit.ledger import Rank, given_back, rank, slot_us
from fleetlimit.limiter.audit.report import NO_WORD, PENDING, Limit, write
from fleetlimit.limiter.plan import Plan
from fleetlimit.limiter.ports import Taken

KEPT_SLOTS = 6
"""Slots with anything in them that are kept for each caller: half a minute of steady traffic."""
_EVERYBODY: Rank = (sys.maxsize, "")


class Counted:
    """One caller of one limit."""

    __slots__ = (
        *("callers", "first", "gives_back", "key", "quota"),
        *("rank", "seen_us", "slot_us", "slots", "untold"),
    )

    def __init__(self, callers: "Callers", key: str, quota: Quota, place: Rank) -> None:
        self.callers = callers
        self.key = key
        self.quota = quota
        self.rank = place
        self.slot_us = callers.slot_us
        self.seen_us = 0
        self.first = 0
        self.gives_back = False
        # As in a statement: first time within the slot, spent before, units.
        self.slots: dict[int, list[int]] = {}
        self.untold = 0

    def add(self, at_us: int, before: int, units: int) -> None:
        """Count units.

        Args:
            at_us: When they were let in, on the store's clock.
            before: Units that were spent before them, as the store said.
            units: How many; below 0 for what was given back.
        """
        slot, after_us = divmod(at_us, self.slot_us)
        found = self.slots.get(slot)
        self.untold += units
        if found is None:
            self.slots[slot] = [after_us, before, units]
            if len(self.slots) > KEPT_SLOTS:
                oldest = min(self.slots)
                del self.slots[oldest]
                self.first = max(self.first, oldest + 1)
            return
        found[2] += units
        # Answers may come in another order than the store decided in.
        first_us = found[0]
        if after_us < first_us or (after_us == first_us and before < found[1]):
            found[0], found[1] = after_us, before


class Callers:
    """The callers of one limit, and the last place among them that is still taken."""

    __slots__ = ("by_name", "last", "limit", "most", "slot_us")

    def __init__(self, limit: Limit, most: int) -> None:
        self.limit = limit
        self.slot_us = slot_us(limit.quota)
        self.most = most
        self.by_name: dict[str, Counted] = {}
        self.last = _EVERYBODY

    def put(self, new: Counted) -> Counted | None:
        """Take a caller in, and return the one that has to go for it."""
        _, name = new.rank
        self.by_name[name] = new
        gone = None
        if len(self.by_name) > self.most:
            gone = max(self.by_name.values(), key=lambda each: each.rank)
            del self.by_name[gone.rank[1]]
        if len(self.by_name) == self.most:
            self.last = max(each.rank for each in self.by_name.values())
        return gone

    def remove(self, counted: Counted) -> None:
        """Let a caller go, so that its place is free."""
        del self.by_name[counted.rank[1]]
        self.last = _EVERYBODY


IDLE_US = 300 * SECOND_US
"""A caller that was not seen for so long makes room for another."""
BREAK_US = 3_600 * SECOND_US
"""How long a break is told of: as long as a ledger may be left alone and then continued."""
MAX_BREAKS = 256
_MAX_QUOTAS = 1_000
_MAX_BEYOND = 8_192


class Sample:
    """Counts what is let in.

    Args:
        keys: Callers counted for each limit; 0 counts nothing.
    """

    def __init__(self, keys: int) -> None:
        self._keys = keys
        self._buckets: dict[str, Counted] = {}
        self._limits: dict[Limit, Callers] = {}
        # To make a limit takes longer than to know a quota again that was seen before.
        self._seen: dict[tuple[str, Quota], Callers] = {}
        # Those who are not counted, most by far, and will not be until somebody makes room.
        self._beyond: dict[str, Quota] = {}
        self._breaks: dict[str, int] = {}
        self._stated: set[str] = set()

    def decided(self, plan: Plan, taken: Taken) -> None:
        """Count what the store let in; a caller that it refused is seen, too."""
        # A slice was counted as a whole when it was taken.
        if not self._keys or taken.sliced:
            return
        for place, (key, quota, units, lease, group) in enumerate(plan.charges):
            # What is enforced, and stays spent.
            if group or lease:
                continue
            counted = self._buckets.get(key)
            if counted is None or counted.quota is not quota:
                if self._beyond.get(key) is quota:
                    continue
                counted = self._find(key, quota)
                if counted is None:
                    continue
            counted.seen_us = at_us = taken.at_us(place)
            if taken.spent and units:
                before = quota.burst - taken.verdicts[place].remaining - units
                counted.add(at_us, max(0, before), units)

    def corrected(self, settlements: Sequence[Settlement], times_us: Sequence[int]) -> None:
        """Take off what was given back; what was spent without asking is beyond by agreement.

        Args:
            settlements: What the store corrected.
            times_us: When it did, for each.
        """
        for each, at_us in zip(settlements, times_us, strict=True):
            if not self._keys or each.lease or each.delta >= 0:
                continue
            units = given_back(each.quota, -each.delta, each.taken_us, at_us)
            counted = self._find(each.key, each.quota) if units else None
            if counted is not None:
                counted.seen_us = at_us
                counted.gives_back = True
                # The slot's last moment: whatever was asked of the bucket in it was earlier.
                end_us = (at_us // counted.slot_us + 1) * counted.slot_us
                counted.add(end_us - 1, NO_WORD, -units)

    def interrupt(self, buckets: Iterable[str]) -> None:
        """Forget what was let in of buckets that the store forgot, or may have corrected unheard.

        What counts again counts from the next statement on, for all replicas.
        """
        if not self._keys:
            return
        for key in buckets:
            self._breaks.pop(key, None)
            self._breaks[key] = PENDING
            # A statement that is on its way says nothing of this.
            self._stated.discard(key)
            if key in self._buckets:
                self._buckets[key].slots.clear()
        while len(self._breaks) > MAX_BREAKS:
            del self._breaks[next(iter(self._breaks))]

    def state(self) -> str:
        """Return the statement of this moment."""
        self._stated = {key for key, at_us in self._breaks.items() if at_us == PENDING}
        accounts = {
            str(limit): {
                name: (each.first, int(each.gives_back), each.slots)
                for name, each in callers.by_name.items()
            }
            for limit, callers in self._limits.items()
        }
        return write(accounts, self._breaks)

    def stated(self, now_us: int) -> None:
        """Take note of when, on the store's clock, the last statement was made."""
        self._breaks.update(dict.fromkeys(self._stated & self._breaks.keys(), now_us))
        self._stated.clear()
        ended = [key for key, at in self._breaks.items() if 0 <= at < now_us - BREAK_US]
        for key in ended:
            del self._breaks[key]
        idle = [each for each in self._buckets.values() if each.seen_us < now_us - IDLE_US]
        for each in idle:
            self._drop(each)
        unused = [limit for limit, callers in self._limits.items() if not callers.by_name]
        for limit in unused:
            del self._limits[limit]
            self._beyond.clear()
        if unused or len(self._seen) > _MAX_QUOTAS:
            self._seen.clear()

    def admitted(self, bounds: Mapping[str, int] | None) -> dict[str, int]:
        """Return the units let in since the last time, by policy, for those who are audited.

        Args:
            bounds: The largest hash that is audited, for each limit that has more callers; None
                while that is not known, and nothing is told yet.
        """
        told = {limit.policy: 0 for limit in self._limits}
        if bounds is None:
            return told
        for limit, callers in self._limits.items():
            bound = bounds.get(str(limit), sys.maxsize)
            for each in callers.by_name.values():
                if each.untold > 0:
                    told[limit.policy] += each.untold if each.rank[0] <= bound else 0
                    each.untold = 0
        return told

    def _find(self, key: str, quota: Quota) -> Counted | None:
        """Return the count of a bucket, if it is one to be counted."""
        policy = policy_of(key)
        callers = self._seen.get((policy, quota)) or self._see(policy, quota)
        place = rank(caller_of(key))
        if place > callers.last:
            if len(self._beyond) >= _MAX_BEYOND:
                self._beyond.clear()
            self._beyond[key] = quota
            return None
        found = self._buckets.get(key)
        if found is not None:
            if found.callers is callers:
                found.quota = quota
                return found
            self._drop(found)
        new = self._buckets[key] = Counted(callers, key, quota, place)
        gone = callers.put(new)
        if gone is not None:
            del self._buckets[gone.key]
        return new

    def _see(self, policy: str, quota: Quota) -> Callers:
        limit = Limit.of(policy, quota)
        callers = self._limits.get(limit)
        if callers is None:
            callers = self._limits[limit] = Callers(limit, self._keys)
        self._seen[policy, quota] = callers
        return callers

    def _drop(self, counted: Counted) -> None:
        del self._buckets[counted.key]
        counted.callers.remove(counted)
        self._beyond.clear()
