"""A hot bucket as one replica has it: its slices, and who waits for the next one."""

import asyncio
from collections import deque
from collections.abc import Sequence

from fleetlimit.core.charge import Charge, Settlement
from fleetlimit.core.decision import Verdict
from fleetlimit.core.quota import SECOND_US
from fleetlimit.core.slices import Slicing, unused
from fleetlimit.limiter.plan import Plan
from fleetlimit.limiter.ports import Taken

GRACE_US = SECOND_US
"""What is given back may be so long on its way to the store, and gained by the bucket meanwhile."""


class Slice:
    """Cost that was taken in one call.

    Args:
        charges: What was taken, from each bucket.
        taken: What the store said.
        sent_us: When it was asked, on this process's clock.
        ends_us: From when on the slice is not used.
        cost: How much it was, as the cost of requests.
    """

    __slots__ = ("charges", "cost", "ends_us", "left", "sent_us", "taken")

    def __init__(
        self, charges: Sequence[Charge], taken: Taken, sent_us: int, ends_us: int, cost: int
    ) -> None:
        self.charges = charges
        self.taken = taken
        self.sent_us = sent_us
        self.ends_us = ends_us
        self.cost = cost
        self.left = cost

    def corrections(self, now_us: int) -> list[Settlement]:
        """Return what gives back the part that is left, unless the buckets have gained it anew."""
        age_us = now_us - self.sent_us + GRACE_US
        # Once: what is put back later, by one who had gone away, does not count again.
        left, self.left = self.left, 0
        found = []
        for place, charge in enumerate(self.charges):
            window_us = self.taken.verdicts[place].reset_us
            units = unused(charge.quota, left * charge.quota.cost, age_us, window_us)
            if units:
                found.append(charge.correction(-units, self.taken.at_us(place)))
        return found


class Waiter:
    """A check that waits for a slice.

    Args:
        plan: What it asks.
        cost: What it costs.
    """

    __slots__ = ("answer", "cost", "plan", "slice")

    def __init__(self, plan: Plan, cost: int) -> None:
        self.plan = plan
        self.cost = cost
        self.answer: asyncio.Future[Taken] = asyncio.get_running_loop().create_future()
        self.slice: Slice | None = None


class Hot:
    """The buckets of one policy and key.

    Args:
        keys: The buckets' keys in the store.
        slicing: How large a slice may be, and how old.
    """

    __slots__ = (
        *("_ends_us", "_near_until_us", "_room", "_said", "_said_us", "_size"),
        *("keys", "served", "slices", "slicing", "waiting"),
    )

    def __init__(self, keys: frozenset[str], slicing: Slicing) -> None:
        self.keys = keys
        self.slicing = slicing
        self.slices: list[Slice] = []
        self.waiting: deque[Waiter] = deque()
        self.served = False
        self._said: tuple[Verdict, ...] = ()
        self._said_us = 0
        self._ends_us = 0
        self._size = 1
        self._room = 0
        self._near_until_us = 0

    def spend(self, cost: int, now_us: int) -> Taken | None:
        """Spend from the oldest slice that has enough, if there is one."""
        slice_ = self._slice(cost, now_us)
        return self._spend(slice_, cost, now_us) if slice_ is not None else None

    def _slice(self, cost: int, now_us: int) -> Slice | None:
        for each in self.slices:
            if each.left >= cost and now_us < each.ends_us:
                return each
        return None

    def _spend(self, slice_: Slice, cost: int, now_us: int) -> Taken:
        slice_.left -= cost
        if not slice_.left:
            self.slices.remove(slice_)
            self._size = min(self.slicing.most, 2 * max(self._size, slice_.cost))
        return slice_.taken._replace(verdicts=self._verdicts(now_us), sliced=True)

    def _verdicts(self, now_us: int) -> tuple[Verdict, ...]:
        """Return what the store said last, with what is left here and the time that has passed."""
        age_us = now_us - self._said_us
        left = sum([each.left for each in self.slices if now_us < each.ends_us])
        return tuple(
            [
                Verdict(
                    True,  # noqa: FBT003 - a named tuple, whose fields are in this order
                    min(quota.burst, verdict.remaining + left * quota.cost),
                    0,
                    max(1, verdict.next_us - age_us),
                    max(1, verdict.reset_us - age_us),
                )
                for quota, verdict in zip(self.slicing.limits, self._said, strict=True)
            ]
        )

    def first(self) -> Waiter | None:
        """Return who has waited longest, past those who went away."""
        while self.waiting and self.waiting[0].answer.done():
            self.waiting.popleft()
        return self.waiting[0] if self.waiting else None

    def amount(self, demand: int, now_us: int) -> int:
        """Return how much to ask for, when the first who waits is to have it all the same.

        Args:
            demand: What all who wait ask for together.
            now_us: The time.
        """
        cost = self.waiting[0].cost
        if now_us < self._near_until_us:
            # A slice was refused: nothing is taken that nobody waits for, or that is not there.
            return max(cost, min(demand, self._room))
        return max(cost, min(self.slicing.most, max(demand, self._size)))

    def add(self, new: Slice) -> None:
        """Take a slice in."""
        self.slices.append(new)
        self._said, self._said_us, self._ends_us = new.taken.verdicts, new.sent_us, new.ends_us
        self._room = self._room_of(new.taken)

    def _room_of(self, taken: Taken) -> int:
        """Return the cost that the store has left for requests."""
        pairs = zip(self.slicing.limits, taken.verdicts, strict=True)
        return min([verdict.remaining // quota.cost for quota, verdict in pairs])

    def serve(self, now_us: int) -> bool:
        """Serve those who wait from what is there, in their order, and tell whether any was."""
        served = False
        while (head := self.first()) is not None:
            found = self._slice(head.cost, now_us)
            if found is None:
                break
            self.give(head, found, now_us)
            served = True
        return served

    def give(self, waiter: Waiter, slice_: Slice, now_us: int) -> None:
        """Serve one who waits from a slice that has enough."""
        waiter.slice = slice_
        waiter.answer.set_result(self._spend(slice_, waiter.cost, now_us))

    def put_back(self, waiter: Waiter) -> None:
        """Take back what was given to one who had gone away."""
        if waiter.slice is not None:
            waiter.slice.left += waiter.cost
            if waiter.slice not in self.slices:
                self.slices.append(waiter.slice)

    def shrink(self, taken: Taken, now_us: int) -> int:
        """Take note that a slice was refused, and return how much would not have been.

        Args:
            taken: What the store said.
            now_us: When it was asked.
        """
        self._size = 1
        self._room = self._room_of(taken)
        self._near_until_us = now_us + max(verdict.retry_us for verdict in taken.verdicts)
        return self._room

    def refuse(self, taken: Taken) -> None:
        """Refuse the first who waits, and all who ask for the same: one call says it of all."""
        charges = self.waiting[0].plan.charges
        alike = [each for each in self.waiting if each.plan.charges == charges]
        self.waiting = deque(each for each in self.waiting if each.plan.charges != charges)
        for each in alike:
            if not each.answer.done():
                each.answer.set_result(taken)

    def fail(self, error: Exception) -> None:
        """Tell all who wait that there is no answer."""
        while (head := self.first()) is not None:
            head.answer.set_exception(error)

    def ended(self, now_us: int) -> list[Slice]:
        """Return the slices that have ended, and hold them no more."""
        found = [each for each in self.slices if now_us >= each.ends_us]
        for each in found:
            self.slices.remove(each)
            self._size = max(1, each.cost - each.left)
        return found

    def is_idle(self, now_us: int) -> bool:
        """Tell whether nothing is known of the bucket that the next check needs."""
        until_us = max(self._near_until_us, self._ends_us)
        return not self.slices and not self.waiting and now_us >= until_us
