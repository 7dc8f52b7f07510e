"""Slices of hot buckets: taken from the store in one call, and spent here without one.

A slice grows with what is asked: it is twice the last one if that was used up in time, and as much
as was used of it if not. What nobody uses is so at most about what is used. Of each bucket one call
is under way at a time; who comes meanwhile waits for it, and is served in the order of coming.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from fleetlimit.core.charge import Charge, Settlement
from fleetlimit.core.decision import Verdict
from fleetlimit.core.prefetch import Slicing, unused
from fleetlimit.core.quota import SECOND_US, Algorithm, Quota
from fleetlimit.limiter.audit.sample import Sample
from fleetlimit.limiter.periodic import Repeated
from fleetlimit.limiter.plan import Plan
from fleetlimit.limiter.ports import Clock, Sleep, Taken
from fleetlimit.limiter.reservation import Settle

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


MAX_BUCKETS = 4_096
INTERVAL_SECONDS = 1.0
"""How often what was not used is looked for."""

Ask = Callable[[Sequence[Charge]], Awaitable[Taken]]
Place = tuple[str, tuple[Quota, ...]]


class Slices:
    """Takes slices, and spends them.

    Args:
        ask: Takes charges from the store.
        settle: Gives back what was not used; it never raises.
        sample: Is told of each slice that was taken.
        clock: The process's own time, by which slices end.
        sleep: How to wait between looks at what was not used.
        max_buckets: Buckets of which slices are held; the first that became hot makes room.
    """

    def __init__(
        self,
        ask: Ask,
        settle: Settle,
        sample: Sample,
        clock: Clock,
        *,
        sleep: Sleep = asyncio.sleep,
        max_buckets: int = MAX_BUCKETS,
    ) -> None:
        self._ask = ask
        self._settle = settle
        self._sample = sample
        self._clock = clock
        self._max_buckets = max_buckets
        self._hot: dict[Place, Hot] = {}
        self._unused: list[Slice] = []
        self._serving: set[asyncio.Task[None]] = set()
        self._beats = Repeated(self.beat, INTERVAL_SECONDS, sleep)
        self._beating = False

    async def take(self, plan: Plan, slicing: Slicing) -> Taken:
        """Spend the charges of a plan, all of one policy, from a slice if there is one.

        Raises:
            StoreError: There is none, and the store is away.
        """
        first = plan.charges[0]
        cost = first.units // first.quota.cost
        place = first.key, slicing.limits
        hot = self._hot.get(place) or self._open(place, plan, slicing)
        if not hot.waiting:
            taken = hot.spend(cost, self._clock.now_us())
            if taken is not None:
                return taken
        return await self._wait(hot, Waiter(plan, cost))

    def _open(self, place: Place, plan: Plan, slicing: Slicing) -> Hot:
        if not self._beating:
            self._beats.start()
            self._beating = True
        if len(self._hot) >= self._max_buckets:
            self._unused += self._hot.pop(next(iter(self._hot))).slices
        hot = self._hot[place] = Hot(frozenset(each.key for each in plan.charges), slicing)
        return hot

    async def _wait(self, hot: Hot, waiter: Waiter) -> Taken:
        hot.waiting.append(waiter)
        if not hot.served:
            hot.served = True
            # Not by one of those who wait: a client that goes away must take nobody's call along.
            task = asyncio.get_running_loop().create_task(self._serve(hot))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
        try:
            return await waiter.answer
        except asyncio.CancelledError:
            hot.put_back(waiter)
            raise

    async def _serve(self, hot: Hot) -> None:
        """Serve those who wait until nobody does."""
        try:
            while hot.first() is not None:
                await self._serve_first(hot)
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody may wait for ever
            hot.fail(error)
        finally:
            hot.served = False

    async def _serve_first(self, hot: Hot) -> None:
        now_us = self._clock.now_us()
        self._unused += hot.ended(now_us)
        if hot.serve(now_us):
            return
        asked = [each for each in hot.waiting if not each.answer.done()]
        demand = sum(each.cost for each in asked)
        amount = hot.amount(demand, now_us)
        while True:
            sent_us = self._clock.now_us()
            charges = _times(asked[0].plan, amount)
            taken = await self._ask(charges)
            if taken.spent:
                break
            if amount == asked[0].cost:
                hot.refuse(taken)
                return
            amount = max(asked[0].cost, min(hot.shrink(taken, sent_us), demand))
        self._sample.decided(asked[0].plan._replace(charges=charges), taken)
        new = Slice(charges, taken, sent_us, _end_us(hot.slicing, charges, taken, sent_us), amount)
        hot.add(new)
        now_us = self._clock.now_us()
        # Who asked before the store decided is served, however long the answer took.
        for each in asked:
            if each.answer.done():
                continue
            if each.cost > new.left:
                break
            hot.give(each, new, now_us)

    def forget(self, keys: Sequence[str]) -> None:
        """Drop slices of buckets that the store forgot, where there is nothing to give back to."""
        for place, hot in list(self._hot.items()):
            if not hot.keys.isdisjoint(keys):
                del self._hot[place]

    def clear(self) -> None:
        """Use none of the slices any more, and give them back before long."""
        for hot in self._hot.values():
            self._unused += hot.slices
        self._hot.clear()

    async def beat(self) -> None:
        """Give back what was not used in time, and forget buckets that are not hot any more."""
        now_us = self._clock.now_us()
        for place, hot in list(self._hot.items()):
            self._unused += hot.ended(now_us)
            if hot.is_idle(now_us):
                del self._hot[place]
        unused, self._unused = self._unused, []
        back = [each for slice_ in unused for each in slice_.corrections(now_us)]
        if back:
            await self._settle(back)

    async def aclose(self) -> None:
        """Serve those who wait, and give back all that was not used."""
        await self._beats.stop()
        if self._serving:
            await asyncio.wait(self._serving)
        self.clear()
        await self.beat()


def _times(plan: Plan, cost: int) -> tuple[Charge, ...]:
    """Return the charges of a plan at another cost."""
    return tuple([each._replace(units=cost * each.quota.cost) for each in plan.charges])


def _end_us(slicing: Slicing, charges: Sequence[Charge], taken: Taken, sent_us: int) -> int:
    """Return when a slice ends: with its life, or with the first of its windows."""
    lives = [
        verdict.reset_us
        for charge, verdict in zip(charges, taken.verdicts, strict=True)
        if charge.quota.algorithm is Algorithm.FIXED_WINDOW
    ]
    return sent_us + min([slicing.life_us, *lives])
