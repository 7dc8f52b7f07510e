"""Slices of hot buckets: taken from the store in one call, and spent here without one.

A slice grows with what is asked: it is twice the last one if that was used up in time, and as much
as was used of it if not. What nobody uses is so at most about what is used. Of each bucket one call
is under way at a time; who comes meanwhile waits for it, and is served in the order of coming.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from fleetlimit.core.charge import Charge
from fleetlimit.core.quota import Algorithm, Quota
from fleetlimit.core.slices import Slicing
from fleetlimit.limiter.hot import Hot, Slice, Waiter
from fleetlimit.limiter.plan import Plan
from fleetlimit.limiter.ports import Clock, Sleep, Taken
from fleetlimit.limiter.repeated import Repeated
from fleetlimit.limiter.reservation import Settle
from fleetlimit.limiter.sample import Sample

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
