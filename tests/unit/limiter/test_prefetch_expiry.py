"""What becomes of a slice: it ends, goes back where that is exact, and is counted."""

import asyncio
from collections.abc import Sequence

import pytest

from fleetlimit.core.charge import Charge
from fleetlimit.core.keys import KeyScheme
from fleetlimit.core.policy import Policy, PolicySet
from fleetlimit.core.subject import Principal, Subject
from fleetlimit.errors import StoreError
from fleetlimit.limiter.audit.sample import Sample
from fleetlimit.limiter.plan import make_plan
from fleetlimit.limiter.ports import Taken
from fleetlimit.limiter.prefetch import Slices
from fleetlimit.stores.memory import MemoryStore
from support.audit import Fleet
from support.clock import MovedClock as FleetClock
from support.limiter import Bench, MovedClock, Pauses, ToldStore, away
from support.slices import BUCKET, WINDOW, checks


async def test_refund_and_commit() -> None:
    """What a request gives back goes to the store, as of when its slice was taken."""
    async with Bench(BUCKET) as bench:
        await checks(bench, 3)
        taken_us = bench.clock.us
        bench.clock.move(1)
        await checks(bench, 1)
        reservation = await bench.limiter.reserve("p", principal="ann", cost=3)
        await reservation.commit(1)
        (settled,) = bench.store.settled
        assert (settled.delta, settled.taken_us) == (-2, bench.clock.us)
        hold = await bench.limiter.reserve("p", principal="ann")
        bench.clock.move(1)
        await hold.refund()
        assert bench.store.settled[-1].delta == -1
        assert bench.store.settled[-1].taken_us == taken_us + 1_000_000


async def test_reset_drops_slices() -> None:
    """After a reset there is nothing to give back to, and the next check asks the store."""
    async with Bench(BUCKET, WINDOW) as bench:
        await checks(bench, 4)
        await checks(bench, 4, policy="w")
        assert await bench.limiter.reset("p", principal="ann") == 1
        assert (await bench.left("p"), await bench.left("w")) == (90, 93)
        before = bench.store.count("take")
        await checks(bench, 3, policy="w")
        assert bench.store.count("take") == before
        await checks(bench, 1)
        assert bench.store.count("take") == before + 1
    assert bench.store.settled == []


async def test_reload_gives_slices_back() -> None:
    """New policies have slices of their own; those of the old ones go back."""
    async with Bench(WINDOW) as bench:
        await checks(bench, 4, policy="w")
        bench.limiter.policies.replace(PolicySet([WINDOW]))
        await bench.limiter._till.slices.beat()
        assert await bench.left("w") == 96


async def test_closing_gives_slices_back() -> None:
    """A window takes all back, a token bucket what it cannot have gained within a second."""
    for policy, given in (("p", 7), ("w", 9)):
        async with Bench(BUCKET, WINDOW) as bench:
            await checks(bench, 16, policy=policy)
        assert [each.delta for each in bench.store.settled] == [-given]


async def test_closing_waits_for_a_slice_under_way() -> None:
    """A call that is under way when a replica ends is answered, and its rest goes back."""
    async with Bench(WINDOW) as bench:
        await checks(bench, 1, policy="w")
        hold = bench.store.hold("take", late=True)
        async with asyncio.TaskGroup() as group:
            group.create_task(bench.limiter.check("w", principal="ann"))
            await hold.wait()
            group.create_task(bench.limiter._till.slices.aclose())
            for _ in range(5):
                await asyncio.sleep(0)
            hold.go.set()
        assert [each.delta for each in bench.store.settled] == [-1]


async def test_a_window_ends_its_slices() -> None:
    """A slice is not used in the next window, whose limit it was not taken from."""
    async with Bench(WINDOW) as bench:
        # The clock stands 20 s into a minute.
        bench.clock.move(39)
        await checks(bench, 4, policy="w")
        bench.clock.move(0.999_999)
        await checks(bench, 1, policy="w")
        assert bench.store.count("take") == 3
        bench.clock.move(0.000_001)
        await checks(bench, 1, policy="w")
        assert bench.store.count("take") == 4


async def test_a_window_takes_unused_units_back() -> None:
    """What was not used of a slice when it ends is given back once, to a window that is open."""
    async with Bench(WINDOW) as bench:
        await checks(bench, 4, policy="w")
        bench.clock.move(6)
        slices = bench.limiter._till.slices
        await slices.beat()
        await slices.beat()
        assert [each.delta for each in bench.store.settled] == [-3]
        assert await bench.left("w") == 96
        assert slices._hot == {}


class Counter:
    """Slices over a told store, with pauses that the test ends."""

    def __init__(self, *, max_buckets: int = 10) -> None:
        self.clock = MovedClock()
        self.store = ToldStore(self.clock)
        self.pauses = Pauses()
        self.error: Exception | None = None
        self.slices = Slices(
            self.ask,
            self.store.settle,
            Sample(0),
            self.clock,
            sleep=self.pauses,
            max_buckets=max_buckets,
        )

    async def ask(self, charges: Sequence[Charge]) -> Taken:
        """Ask the store, or fail as the test says."""
        if self.error is not None:
            raise self.error
        return await self.store.take(charges)

    async def take(self, caller: str, *, times: int = 1) -> None:
        """Spend as often."""
        subject = Subject(principal=Principal(caller))
        plan = make_plan([(WINDOW, 1)], subject, KeyScheme())
        assert plan.slicing is not None
        for _ in range(times):
            assert (await self.slices.take(plan, plan.slicing)).sliced


async def test_looks_for_what_is_unused() -> None:
    """Once there was a slice, what is unused is looked for every second."""
    counter = Counter()
    assert counter.pauses.asked.lines == []
    await counter.take("ann", times=4)
    await counter.take("bob")
    await counter.pauses.begun(1)
    counter.clock.move(6)
    counter.pauses.end()
    await counter.store.did("settle")
    await counter.slices.aclose()
    assert set(counter.pauses.asked.lines) == {1.0}
    assert [each.delta for each in counter.store.settled] == [-3]


async def test_no_more_buckets_than_that() -> None:
    """The bucket that became hot first makes room, and its slice goes back."""
    counter = Counter(max_buckets=2)
    for caller in ("ann", "bob", "cid"):
        await counter.take(caller, times=2)
    assert len(counter.slices._hot) == 2
    await counter.slices.beat()
    assert [each.delta for each in counter.store.settled] == [-1]
    await counter.slices.aclose()


async def test_no_error_leaves_anybody_waiting() -> None:
    """An error that nobody thought of reaches who waits, and the next check asks anew."""
    counter = Counter()
    counter.error = RuntimeError("unthinkable")
    with pytest.raises(RuntimeError, match="unthinkable"):
        await counter.take("ann")
    counter.error = away()
    with pytest.raises(StoreError):
        await counter.take("ann")
    counter.error = None
    await counter.take("ann")
    await counter.slices.aclose()


@pytest.mark.parametrize("policy", [BUCKET, WINDOW], ids=["token_bucket", "fixed_window"])
async def test_the_audit_counts_slices(policy: Policy) -> None:
    """A slice is counted when it is taken, and what is given back is taken off: it reads 0."""
    store = MemoryStore(clock := FleetClock())
    fleet = Fleet(clock, lambda: store, policy)
    passed = 0
    await fleet.beat()
    for second in range(150):
        for name in ("a", "b", "c"):
            passed += await fleet.spend(name, policy.name, "ann", times=second % 7)
            await fleet[name]._till.slices.beat()
        await fleet.beats(1)
    for name in ("a", "b", "c"):
        await fleet[name]._till.slices.aclose()
    await fleet.settled()
    assert (fleet.found(), fleet.overshoot(policy.name)) == ([], 0)
    assert passed <= fleet.total(policy.name, "admitted") <= passed + 3 * 10
    await fleet.aclose()
