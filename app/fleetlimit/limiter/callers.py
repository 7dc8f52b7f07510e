"""The callers of one limit that are counted, and what was let in for each of them."""

import sys

from fleetlimit.core.audit import Rank, slot_us
from fleetlimit.core.quota import Quota
from fleetlimit.limiter.statement import Limit

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
