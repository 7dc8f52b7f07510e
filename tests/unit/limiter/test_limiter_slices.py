"""Slices: taken in one call, spent without one, in order, and given back where that is exact."""

import asyncio
from collections.abc import Sequence

import pytest

from headgate.core.charge import Charge
from headgate.core.decision import Decision, Source
from headgate.core.errors import StoreError
from headgate.core.keys import KeyScheme
from headgate.core.policy import Mode, Policy, PolicySet
from headgate.core.quota import rate_quota
from headgate.core.subject import Principal, Subject
from headgate.limiter.hot import Waiter
from headgate.limiter.plan import make_plan
from headgate.limiter.ports import Taken
from headgate.limiter.sample import Sample
from headgate.limiter.slices import Slices
from headgate.stores.memory import MemoryStore
from support.audit import Fleet
from support.clock import MovedClock as FleetClock
from support.limiter import Bench, MovedClock, Pauses, ToldStore, away, rate, remaining, window
from support.stores import MINUTE_US

BUCKET = rate("p", "100/minute", lease=0.1)
"""The bucket holds 90, a slice is 10, and lives 6 s."""
ANN = Subject(principal=Principal("ann"))
WINDOW = rate("w", window(100), lease=0.1)


def left(decision: Decision) -> int:
    """Return what a decision says is left."""
    return remaining(decision.results[0].limits[0])


async def checks(bench: Bench, times: int, *, cost: int = 1, policy: str = "p") -> list[Decision]:
    """Check one after the other."""
    return [await bench.limiter.check(policy, principal="ann", cost=cost) for _ in range(times)]


def begin(bench: Bench, *costs: int) -> list["asyncio.Task[Decision]"]:
    """Begin checks at the same time."""
    loop = asyncio.get_running_loop()
    return [
        loop.create_task(bench.limiter.check("p", principal="ann", cost=cost)) for cost in costs
    ]


async def test_a_hot_bucket_needs_few_calls() -> None:
    """A slice is twice the last one until it is as large as it may be; the rest is as ever."""
    async with Bench(BUCKET) as bench:
        decisions = await checks(bench, 75)

        assert bench.store.count("take") == 4 + 6
        assert [left(each) for each in decisions] == list(range(89, 14, -1))
        assert {each.source for each in decisions} == {Source.STORE}
        assert all(each.spent for each in decisions)


async def test_what_is_told_ages_with_the_slice() -> None:
    """The times are those of the store, less what has passed since, and never nothing."""
    async with Bench(BUCKET) as bench:
        await checks(bench, 2)
        bench.clock.move(0.5)
        (decision,) = await checks(bench, 1)
        verdict = decision.results[0].limits[0].verdict
        assert verdict is not None
        assert (verdict.next_us, verdict.reset_us) == (100_000, 1_300_000)

        await checks(bench, 1)
        bench.clock.move(3.5)
        (decision,) = await checks(bench, 1)
        verdict = decision.results[0].limits[0].verdict
        assert verdict is not None
        assert (verdict.next_us, verdict.reset_us) == (1, 200_000)


async def test_a_slice_ends_with_its_life() -> None:
    """What is left of a slice by then has been gained by the bucket, and is not used any more."""
    async with Bench(BUCKET) as bench:
        await checks(bench, 4)
        assert await bench.left("p") == 83
        bench.clock.move(5.999_999)
        await checks(bench, 1)
        assert bench.store.count("take") == 3 + 1
        bench.clock.move(0.000_001)
        await checks(bench, 1)
        # Two of the last one were used: this one is as large.
        assert await bench.left("p") == 88
        bench.clock.move(6)
        await bench.limiter._till.slices.beat()
        assert bench.store.settled == []


@pytest.mark.parametrize(
    ("age_us", "together"),
    [(0, 88), (3_000_000, 93), (5_999_999, 97), (6_000_000, 80), (9_000_000, 85), (11_999_999, 89)],
)
async def test_what_is_held_and_what_is_there_is_the_burst(age_us: int, together: int) -> None:
    """However old the slices of two replicas are, at one instant no more passes than the burst."""
    store = MemoryStore(clock := FleetClock())
    fleet = Fleet(clock, lambda: store, BUCKET, replicas=("a", "b"))
    for _ in range(2):
        clock.advance(MINUTE_US)
        for name in ("a", "b"):
            assert await fleet.spend(name, "p", "ann") == 1
            for hot in fleet[name]._till.slices._hot.values():
                hot._size = 10
    clock.advance(age_us)
    passed = [await fleet.spend(name, "p", "ann", times=101) for name in ("a", "b")]
    assert sum(passed) == together
    await fleet.aclose()


async def test_the_first_call_is_as_large_as_what_waits() -> None:
    """Checks that come at the same time share a call."""
    async with Bench(BUCKET) as bench:
        decisions = await asyncio.gather(*begin(bench, *[1] * 7))

        assert bench.store.count("take") == 1
        assert [left(each) for each in decisions] == [89, 88, 87, 86, 85, 84, 83]


async def test_one_call_at_a_time_and_in_order() -> None:
    """Who comes while a call is under way waits for it, and nobody overtakes a larger cost."""
    async with Bench(BUCKET) as bench:
        hold = bench.store.hold("take")
        first = begin(bench, 1)
        await hold.wait()
        others = begin(bench, 20, 1, 1)
        await asyncio.sleep(0)
        assert bench.store.count("take") == 1
        hold.go.set()
        decisions = await asyncio.gather(*first, *others)

        # The second call is as large as its first waiter needs, the third for the rest.
        assert [left(each) for each in decisions] == [89, 69, 68, 67]
        assert bench.store.count("take") == 3


@pytest.mark.parametrize(
    ("costs", "told", "calls"), [((1, 3), [81, 78], 1), ((1, 3, 9, 1), [81, 78, 69, 68], 2)]
)
async def test_who_comes_meanwhile_has_what_is_left(
    costs: Sequence[int], told: Sequence[int], calls: int
) -> None:
    """A slice serves those who came while it was under way, and only then there is another call."""
    async with Bench(BUCKET) as bench:
        await checks(bench, 7)
        hold = bench.store.hold("take")
        first = begin(bench, 1)
        await hold.wait()
        others = begin(bench, *costs)
        await asyncio.sleep(0)
        hold.go.set()
        decisions = await asyncio.gather(*first, *others)
        assert [left(each) for each in decisions] == [82, *told]
        assert bench.store.count("take") == 3 + calls


async def test_a_larger_cost_waits_for_a_slice_of_its_own() -> None:
    """Within a slice's reach it is served from one, and what was left before is used later."""
    async with Bench(BUCKET) as bench:
        decisions = await checks(bench, 4)
        decisions += await checks(bench, 1, cost=7)
        decisions += await checks(bench, 1)
        assert [left(each) for each in decisions][-2:] == [79, 78]
        assert bench.store.count("take") == 4
        assert await bench.left("p") == 76


@pytest.mark.parametrize("late", [False, True])
async def test_who_goes_away_loses_nothing(*, late: bool) -> None:
    """What was asked for one that is gone is there for the next."""
    async with Bench(BUCKET) as bench:
        hold = bench.store.hold("take", late=late)
        first, second = begin(bench, 1, 1)
        await hold.wait()
        first.cancel()
        hold.go.set()
        assert left(await second) == 89
        await checks(bench, 1)
        assert (bench.store.count("take"), await bench.left("p")) == (1, 88)


async def _gone_when_answered(bench: Bench) -> None:
    """Let two check, of whom the second goes away between its answer and its turn."""
    hold = bench.store.hold("take")
    first, second = begin(bench, 1, 1)
    await hold.wait()
    ((hot,),) = [bench.limiter._till.slices._hot.values()]
    hot.waiting[0].answer.add_done_callback(lambda _: second.cancel())
    hold.go.set()
    await first
    with pytest.raises(asyncio.CancelledError):
        await second


async def test_who_goes_away_when_the_answer_is_there() -> None:
    """Units that were given to a check that ends all the same are put back."""
    async with Bench(BUCKET) as bench:
        await _gone_when_answered(bench)
        (decision,) = await checks(bench, 1)
        assert (left(decision), bench.store.count("take")) == (88, 1)


async def test_who_goes_away_with_a_part_of_a_slice() -> None:
    """The slice that is still there has it again."""
    async with Bench(BUCKET) as bench:
        await checks(bench, 3)
        await _gone_when_answered(bench)
        (decision,) = await checks(bench, 1)
        assert (left(decision), bench.store.count("take")) == (85, 3)


async def test_who_goes_away_after_all_was_given_back() -> None:
    """What is put back into a slice that was given back already is not given back again."""
    async with Bench(WINDOW) as bench:
        await checks(bench, 4, policy="w")
        slices = bench.limiter._till.slices
        ((hot,),) = [slices._hot.values()]
        waiter = Waiter(make_plan([(WINDOW, 1)], ANN, KeyScheme()), 1)
        (slice_,) = hot.slices
        hot.give(waiter, slice_, bench.clock.us)
        bench.clock.move(6)
        await checks(bench, 1, policy="w")
        await slices.beat()
        hot.put_back(waiter)
        await slices.beat()
        assert [each.delta for each in bench.store.settled] == [-2, -1]


async def test_who_goes_away_with_a_refusal() -> None:
    """A refusal took nothing, and nothing is put back."""
    async with Bench(rate("p", "2/minute", lease=0.5)) as bench:
        await checks(bench, 1)
        await _gone_when_answered(bench)
        ((hot,),) = [bench.limiter._till.slices._hot.values()]
        assert hot.slices == []


async def test_near_the_limit() -> None:
    """Where a slice is refused, what is there is shared among those who wait, and no more taken."""
    async with Bench(BUCKET) as bench:
        await checks(bench, 75)
        before = bench.store.count("take")
        decisions = await asyncio.gather(*begin(bench, *[1] * 30))

        assert sum(each.allowed for each in decisions) == 15
        # A whole slice, a refused one, the five that are left, and one that is refused for all.
        assert bench.store.count("take") == before + 4
        bench.clock.move(1.3)
        assert [each.allowed for each in await checks(bench, 3)] == [True, True, False]
        assert bench.store.count("take") == before + 4 + 3


async def test_who_goes_away_before_a_refusal() -> None:
    """The others hear of it."""
    async with Bench(rate("p", "2/minute", lease=0.5)) as bench:
        await checks(bench, 1)
        hold = bench.store.hold("take")
        first, second, third = begin(bench, 1, 1, 1)
        await hold.wait()
        second.cancel()
        hold.go.set()
        assert not (await first).allowed
        assert not (await third).allowed


async def test_a_whole_slice_is_tried_again_when_there_is_room() -> None:
    """After the time that a refusal named slices are taken as before."""
    async with Bench(BUCKET) as bench:
        await checks(bench, 95)
        bench.clock.move(30)
        before = bench.store.count("take")
        await checks(bench, 15)
        assert bench.store.count("take") == before + 2


async def test_a_cost_above_a_slice() -> None:
    """It is asked for as it is, as long as the bucket can hold it."""
    async with Bench(BUCKET) as bench:
        decisions = await checks(bench, 2, cost=40)
        assert [left(each) for each in decisions] == [50, 10]
        assert [each.allowed for each in await checks(bench, 1, cost=40)] == [False]


async def test_other_checks_ask_the_store() -> None:
    """Several policies, a policy in shadow and a cost of nothing are decided by the store."""
    shadow = rate("s", "100/minute", lease=0.1, mode=Mode.SHADOW)
    async with Bench(BUCKET, WINDOW, shadow) as bench:
        for _ in range(3):
            await bench.limiter.check("p", "w", principal="ann")
            await bench.limiter.check("s", principal="ann")
            await bench.limiter.check("p", principal="ann", cost=0)
        assert bench.store.count("take") == 9
        # Under the same limit, so that the sum is exact.
        assert [await bench.left(name) for name in ("p", "w", "s")] == [87, 97, 87]


async def test_several_limits() -> None:
    """A slice is the same number of requests of all limits of the policy."""
    limits = (rate_quota("100/minute"), rate_quota("1000/hour", cost=2))
    async with Bench(Policy("p", limits, lease=0.1)) as bench:
        decisions = await checks(bench, 4)
        verdicts = [remaining(limit) for limit in decisions[-1].results[0].limits]
        assert (verdicts, bench.store.count("take")) == ([86, 892], 3)


async def test_the_store_is_away() -> None:
    """A slice that lives is used, for it was spent; after that the policy does what it says."""
    async with Bench(BUCKET) as bench:
        await checks(bench, 3)
        bench.store.down = away()
        assert [each.source for each in await checks(bench, 1)] == [Source.LOCAL]
        bench.store.down = None
        await checks(bench, 2)
        bench.store.down = away()
        sources = [each.source for each in await checks(bench, 4)]
        assert sources == [Source.STORE, Source.STORE, Source.LOCAL, Source.LOCAL]


async def test_all_who_wait_hear_of_a_failure() -> None:
    """One call that fails is one failure, and everybody is decided without the store."""
    async with Bench(BUCKET) as bench:
        bench.store.down = away()
        decisions = await asyncio.gather(*begin(bench, *[1] * 5))
        assert {each.source for each in decisions} == {Source.LOCAL}
        assert bench.store.count("take") == 1


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


async def test_a_slow_answer() -> None:
    """Who asked before the store decided is let in, and what is left is used no longer."""
    async with Bench(BUCKET) as bench:
        await checks(bench, 1)
        hold = bench.store.hold("take", late=True)
        (task,) = begin(bench, 1)
        await hold.wait()
        bench.clock.move(6)
        hold.go.set()
        assert (await task).source is Source.STORE
        await checks(bench, 1)
        assert bench.store.count("take") == 3


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
