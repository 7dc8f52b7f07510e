"""Checks that wait for units: order, time limits, cancellation, and what ends a wait."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from fleetlimit.core.decision import Outcome, Source
from fleetlimit.core.policy import Policy
from fleetlimit.core.policy_set import PolicySet
from fleetlimit.core.quota import SECOND_US, Algorithm, Quota, rate_quota
from fleetlimit.core.subject import Principal, Subject
from fleetlimit.errors import ConfigError, CostError
from fleetlimit.limiter.clock import MonotonicClock
from fleetlimit.limiter.events import CheckDecided
from fleetlimit.limiter.limit_switch import LIMIT_SWITCH
from fleetlimit.limiter.limiter import Limiter
from fleetlimit.limiter.plan import PolicyCost
from fleetlimit.limiter.reservation import Reservation
from fleetlimit.stores.memory import MemoryStore
from support.limiter import Bench, concurrency_policy, fixed_window, rate_policy, timeout_error

ANN = Subject(principal=Principal("ann"))


async def settle() -> None:
    """Let all tasks run until each waits for the clock, the store or another task."""
    for _ in range(50):
        await asyncio.sleep(0)


class Queue:
    """Waiting checks of a bench, and the order in which they were admitted."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.admitted: list[str] = []
        self.denied: list[tuple[str, float]] = []
        self.tasks: dict[str, asyncio.Task[Reservation]] = {}

    async def add(
        self,
        name: str,
        *policies: str,
        cost: int = 1,
        timeout: float | None = None,  # noqa: ASYNC109 - the argument of the limiter
    ) -> None:
        """Start a check, and let it reach its wait."""
        self.start(name, *policies, cost=cost, timeout=timeout)
        await settle()

    def start(self, name: str, *policies: str, cost: int = 1, timeout: float | None = None) -> None:
        """Start a check."""
        self.tasks[name] = asyncio.create_task(self._run(name, policies or ("a",), cost, timeout))

    async def _run(
        self,
        name: str,
        policies: Sequence[str],
        cost: int,
        timeout: float | None,  # noqa: ASYNC109 - as above
    ) -> Reservation:
        timeout_us = None if timeout is None else round(timeout * SECOND_US)
        found = await self.bench.limiter.acquire(
            self._costs(policies, cost), ANN, timeout_us=timeout_us
        )
        if found.decision.allowed:
            self.admitted.append(name)
        else:
            self.denied.append((name, found.decision.retry_after))
        return found

    def _costs(self, policies: Sequence[str], cost: int) -> Callable[[], list[PolicyCost]]:
        require = self.bench.limiter.active_policies.require
        return lambda: [PolicyCost(require(each), cost) for each in policies]

    async def advance(self, seconds: float) -> None:
        """Advance the clock, and let the woken checks run."""
        self.bench.clock.advance(seconds)
        await settle()

    async def finish(self) -> None:
        """Cancel the checks that still wait."""
        for each in self.tasks.values():
            each.cancel()
        await asyncio.wait(self.tasks.values())


def outcomes(bench: Bench) -> list[str]:
    return [each.decision.outcome.value for each in bench.recorder.of(CheckDecided)]


async def test_acquire_admits_without_a_wait_while_units_are_left() -> None:
    """A check that fits is admitted at once, by one call of the store."""
    async with Bench(rate_policy("a", "2/second")) as bench:
        queue = Queue(bench)
        await queue.add("one", timeout=0)
        await queue.add("two", timeout=0)
        assert queue.admitted == ["one", "two"]
        assert bench.store.calls == ["acquire"] * 2


async def test_acquire_is_admitted_exactly_at_the_retry_time() -> None:
    """A waiter is admitted at the microsecond of its retry time, and not before."""
    async with Bench(rate_policy("a", "3/second", "4/minute")) as bench:
        queue = Queue(bench)
        for name in "abcd":
            await queue.add(name)
        assert queue.admitted == ["a", "b", "c"]
        bench.clock.advance_us(333_333)
        await settle()
        assert queue.admitted == ["a", "b", "c"]
        bench.clock.advance_us(1)
        await settle()
        assert queue.admitted == ["a", "b", "c", "d"]


async def test_waiters_are_admitted_in_the_order_in_which_they_came() -> None:
    """Waiters are first come, first served, each at its time and by one call of the store."""
    async with Bench(rate_policy("a", "1/second")) as bench:
        queue = Queue(bench)
        for name in "abcde":
            await queue.add(name)
        assert bench.limiter.waiting == 4
        calls = bench.store.count("acquire")
        for seconds in range(1, 5):
            await queue.advance(1)
            assert queue.admitted == list("abcde"[: seconds + 1])
        assert bench.store.count("acquire") == calls + 4
        assert bench.limiter.waiting == 0
        assert outcomes(bench) == ["allowed"] * 5


async def test_small_check_does_not_pass_a_large_one() -> None:
    """A check that would fit waits behind an earlier one that does not."""
    async with Bench(rate_policy("a", "10/second")) as bench:
        queue = Queue(bench)
        await queue.add("first", cost=8)
        await queue.add("large", cost=6)
        await queue.add("small", cost=1)
        assert queue.admitted == ["first"]
        await queue.advance(0.4)
        assert queue.admitted == ["first", "large"]
        await queue.advance(0.1)
        assert queue.admitted == ["first", "large", "small"]


async def test_wait_that_is_too_long_is_denied_at_once() -> None:
    """A check whose retry time is after its deadline does not wait, and is counted once."""
    async with Bench(rate_policy("a", "1/minute")) as bench:
        queue = Queue(bench)
        await queue.add("a")
        await queue.add("b", timeout=59)
        assert queue.denied == [("b", 60.0)]
        assert outcomes(bench) == ["allowed", "denied"]
        await queue.add("c", timeout=60)
        await queue.advance(60)
        assert queue.admitted == ["a", "c"]


async def test_wait_behind_others_is_part_of_the_time() -> None:
    """A check is denied at once if those ahead of it use all units until its deadline."""
    async with Bench(rate_policy("a", "1/second")) as bench:
        queue = Queue(bench)
        for name in "abcd":
            await queue.add(name)
        await queue.add("late", timeout=3.5)
        assert queue.denied == [("late", 4.0)]
        await queue.add("in time", timeout=4)
        for _ in range(4):
            await queue.advance(1)
        assert queue.admitted == [*"abcd", "in time"]


async def test_checks_that_come_together_are_judged_by_the_first_reply() -> None:
    """Checks that join before a bucket's status is known are denied when it is."""
    async with Bench(rate_policy("a", "1/second")) as bench:
        queue = Queue(bench)
        await queue.add("a")
        await queue.add("b")
        await queue.add("reset", timeout=100)
        hold = bench.store.hold("acquire")
        await bench.limiter.reset("a", principal="ann")
        await settle()
        await hold.wait()
        await queue.add("late", timeout=0.5)
        assert queue.denied == []
        hold.released.set()
        await settle()
        assert queue.admitted == ["a", "b"]
        assert queue.denied == [("late", 2.0)]
        await queue.finish()


@pytest.mark.parametrize(
    "policy",
    [
        rate_policy("a", fixed_window(2)),
        rate_policy("a", rate_quota("2/minute", algorithm=Algorithm.SLIDING_LOG)),
        rate_policy("a", rate_quota("2/minute", algorithm=Algorithm.SLIDING_WINDOW)),
    ],
    ids=["fixed_window", "sliding_log", "sliding_window"],
)
async def test_waiters_of_windows_are_admitted_in_order(policy: Policy) -> None:
    """Each algorithm admits the waiters in order, and no more than its limit."""
    async with Bench(policy) as bench:
        queue = Queue(bench)
        for name in "abcdef":
            await queue.add(name)
        assert queue.admitted == ["a", "b"]
        for _ in range(60):
            await queue.advance(5)
        assert queue.admitted == list("abcdef")


async def test_waiter_is_denied_at_its_deadline() -> None:
    """A check whose wait is not known is denied when its deadline comes."""
    async with Bench(concurrency_policy("a", 1)) as bench:
        queue = Queue(bench)
        await queue.add("holder")
        await queue.add("first", timeout=None)
        await queue.add("second", timeout=12)
        await queue.advance(11.999)
        assert queue.denied == []
        bench.clock.advance_us(1_000)
        await settle()
        assert [name for name, _ in queue.denied] == ["second"]
        (denied,) = [each.decision for each in bench.recorder.of(CheckDecided)][1:]
        assert denied.source is Source.CACHE
        assert denied.denied_by == ("a",)
        await queue.finish()


async def test_released_unit_admits_the_next_waiter_at_once() -> None:
    """A released concurrency unit goes to the first waiter without a pause."""
    async with Bench(concurrency_policy("a", 1)) as bench:
        queue = Queue(bench)
        for name in "abc":
            await queue.add(name)
        assert queue.admitted == ["a"]
        for name in "ab":
            await (await queue.tasks[name]).release()
            await settle()
        assert queue.admitted == ["a", "b", "c"]
        await (await queue.tasks["c"]).release()


async def test_unit_released_during_the_first_attempt_is_not_missed() -> None:
    """A release whose event comes while a denial is on its way starts another attempt."""
    async with Bench(concurrency_policy("a", 1)) as bench:
        queue = Queue(bench)
        await queue.add("a")
        hold = bench.store.hold("acquire", after_work=True)
        await queue.add("b")
        await hold.wait()
        await (await queue.tasks["a"]).release()
        hold.released.set()
        await settle()
        assert queue.admitted == ["a", "b"]
        await (await queue.tasks["b"]).release()


async def test_unit_released_during_a_later_attempt_is_not_missed() -> None:
    """The same for the attempt of a waiter that is the first in its queue."""
    async with Bench(concurrency_policy("a", 2)) as bench:
        queue = Queue(bench)
        await queue.add("a")
        await queue.add("b")
        await queue.add("large", cost=2)
        hold = bench.store.hold("acquire", after_work=True)
        await (await queue.tasks["a"]).release()
        await settle()
        await hold.wait()
        await (await queue.tasks["b"]).release()
        hold.released.set()
        await settle()
        assert queue.admitted == ["a", "b", "large"]
        await (await queue.tasks["large"]).release()


async def test_refund_admits_the_next_waiter_at_once() -> None:
    """Units that another request refunds go to the first waiter."""
    async with Bench(rate_policy("a", "1/hour")) as bench:
        queue = Queue(bench)
        await queue.add("a")
        await queue.add("b")
        await (await queue.tasks["a"]).refund()
        await settle()
        assert queue.admitted == ["a", "b"]


async def test_cancelled_waiter_spends_nothing_and_frees_its_place() -> None:
    """After a cancellation the next waiter takes the place."""
    async with Bench(rate_policy("a", "1/second")) as bench:
        queue = Queue(bench)
        for name in "abc":
            await queue.add(name)
        queue.tasks["b"].cancel()
        await settle()
        assert bench.limiter.waiting == 1
        await queue.advance(1)
        assert queue.admitted == ["a", "c"]


@pytest.mark.parametrize("policy", [rate_policy("a", "2/hour"), concurrency_policy("a", 2)])
@pytest.mark.parametrize("after_work", [False, True])
async def test_check_cancelled_during_a_store_call_loses_no_units(
    policy: Policy, *, after_work: bool
) -> None:
    """Units that the store has spent for a cancelled check are returned."""
    async with Bench(policy) as bench:
        queue = Queue(bench)
        hold = bench.store.hold("acquire", after_work=after_work)
        await queue.add("a")
        await hold.wait()
        queue.tasks["a"].cancel()
        await settle()
        assert queue.tasks["a"].cancelled()
        hold.released.set()
        await settle()
        assert await bench.remaining("a") == 2


async def test_failed_attempt_of_a_cancelled_check_is_ignored() -> None:
    """A check that is cancelled, and then fails, has no units to return."""
    async with Bench(rate_policy("a", "2/hour", on_store_error="deny")) as bench:
        queue = Queue(bench)
        hold = bench.store.hold("acquire", error=timeout_error())
        await queue.add("a")
        await hold.wait()
        queue.tasks["a"].cancel()
        hold.released.set()
        await settle()
        assert await bench.remaining("a") == 2


async def test_acquire_of_several_policies_is_all_or_nothing() -> None:
    """A waiter spends from none of its policies before it fits in all of them."""
    async with Bench(rate_policy("a", "1/second"), rate_policy("b", "9/minute")) as bench:
        queue = Queue(bench)
        await queue.add("one", "a")
        await queue.add("both", "a", "b")
        assert await bench.remaining("b") == 9
        await queue.advance(1)
        assert queue.admitted == ["one", "both"]
        assert await bench.remaining("b") == 8


async def test_waiter_of_two_buckets_holds_back_those_behind_it_in_each() -> None:
    """A check that waits in two queues is the first in both before the next one is admitted."""
    async with Bench(rate_policy("a", "1/second"), rate_policy("b", "1/minute")) as bench:
        queue = Queue(bench)
        await queue.add("b", "b")
        await queue.add("a", "a")
        await queue.add("both", "a", "b")
        await queue.add("behind", "a")
        await queue.advance(1)
        assert queue.admitted == ["b", "a"]
        await queue.advance(59)
        assert queue.admitted == ["b", "a", "both"]
        await queue.advance(1)
        assert queue.admitted == ["b", "a", "both", "behind"]


async def test_earlier_check_with_a_later_reply_goes_in_front() -> None:
    """The order is that of arrival, not that of the store's replies."""
    async with Bench(rate_policy("a", "1/second")) as bench:
        queue = Queue(bench)
        await queue.add("spent")
        hold = bench.store.hold("acquire", after_work=True)
        await queue.add("early")
        await hold.wait()
        await queue.add("late")
        hold.released.set()
        await settle()
        await queue.add("last", timeout=10)
        for _ in range(3):
            await queue.advance(1)
        assert queue.admitted == ["spent", "early", "late", "last"]


async def test_reload_with_a_larger_limit_admits_the_waiters() -> None:
    """A waiter is decided under the policies that are active at the time, in the same order."""
    async with Bench(rate_policy("a", "1/minute")) as bench:
        queue = Queue(bench)
        for name in "abcd":
            await queue.add(name)
        bench.limiter.active_policies.replace(PolicySet([rate_policy("a", "2/second")]))
        await settle()
        assert queue.admitted == ["a", "b", "c"]
        await queue.advance(0.5)
        assert queue.admitted == ["a", "b", "c", "d"]


async def test_reload_without_the_policy_ends_the_wait() -> None:
    """A waiter whose policy was removed gets the error of a new check."""
    async with Bench(rate_policy("a", "1/minute")) as bench:
        queue = Queue(bench)
        await queue.add("a")
        await queue.add("b")
        bench.limiter.active_policies.replace(PolicySet([rate_policy("other", "1/minute")]))
        await settle()
        with pytest.raises(ConfigError, match="there is no policy 'a'"):
            await queue.tasks["b"]
        assert bench.limiter.waiting == 0


async def test_reload_that_admits_all_ends_the_wait() -> None:
    """A policy in shadow mode has no queue."""
    async with Bench(rate_policy("a", "1/minute")) as bench:
        queue = Queue(bench)
        await queue.add("a")
        await queue.add("b")
        shadow = rate_policy("a", "1/minute", mode="shadow")
        bench.limiter.active_policies.replace(PolicySet([shadow]))
        await settle()
        assert queue.admitted == ["a", "b"]


async def test_cost_that_never_fits_is_an_error_and_not_a_wait() -> None:
    """A cost above the burst raises at once."""
    async with Bench(rate_policy("a", "5/minute")) as bench:
        queue = Queue(bench)
        await queue.add("a", cost=6)
        with pytest.raises(CostError, match="6"):
            await queue.tasks["a"]


async def test_further_waiters_than_the_bound_are_denied(monkeypatch: Any) -> None:
    """The number of waiters is bounded; a check above it is denied, and says when to retry."""
    async with Bench(rate_policy("a", "1/second"), rate_policy("b", "1/second")) as bench:
        monkeypatch.setattr(bench.limiter._wait_queues, "_max_waiters", 1)
        queue = Queue(bench)
        for name in ("a", "b", "c"):
            await queue.add(name)
        assert queue.denied == [("c", 1.0)]
        await queue.add("d", "b")
        await queue.add("e", "b")
        assert queue.admitted == ["a", "d"]
        assert queue.denied == [("c", 1.0), ("e", 1.0)]
        await queue.finish()


async def test_closing_ends_all_waits() -> None:
    """Closing ends all waits with an error."""
    bench = Bench(rate_policy("a", "1/minute"))
    queue = Queue(bench)
    await queue.add("a")
    await queue.add("b")
    await queue.add("c", timeout=500)
    await bench.limiter.aclose()
    for name in "bc":
        with pytest.raises(ConfigError, match="closed while a check waited"):
            await queue.tasks[name]


async def test_store_failure_is_waited_out_by_a_policy_that_denies() -> None:
    """A waiter of a policy with `on_store_error: deny` is admitted when the store is back."""
    async with Bench(rate_policy("a", "2/minute", on_store_error="deny"), failures=99) as bench:
        bench.store.down = timeout_error()
        queue = Queue(bench)
        await queue.add("a", timeout=10)
        await queue.add("b", timeout=0.5)
        await queue.advance(0.5)
        assert [name for name, _ in queue.denied] == ["b"]
        bench.store.down = None
        await queue.advance(0.5)
        assert queue.admitted == ["a"]


async def test_store_failure_denies_with_its_own_outcome() -> None:
    """Without time to wait, the denial is that of the failed store."""
    async with Bench(rate_policy("a", "2/minute", on_store_error="deny")) as bench:
        bench.store.down = timeout_error()
        queue = Queue(bench)
        await queue.add("a", timeout=0)
        assert (await queue.tasks["a"]).decision.outcome is Outcome.FAIL_CLOSED


async def test_check_that_was_denied_beside_another_waits_for_it() -> None:
    """Of two checks that are denied at the same time, the second states the wait for both."""
    async with Bench(rate_policy("a", "1/second")) as bench:
        queue = Queue(bench)
        await queue.add("spent")
        for name in ("first", "second"):
            queue.start(name, timeout=1.5)
        await settle()
        assert queue.denied == [("second", 2.0)]
        await queue.advance(1)
        assert queue.admitted == ["spent", "first"]


async def test_attempt_that_fails_after_a_cancellation_is_ignored() -> None:
    """A cancelled check has nothing to return if its attempt raises."""
    async with Bench(rate_policy("a", "1/second")) as bench:
        reached, released = asyncio.Event(), asyncio.Event()

        async def fail(*_: Any) -> Reservation:
            reached.set()
            await released.wait()
            raise ZeroDivisionError

        bench.limiter._wait_queues._attempt = fail
        queue = Queue(bench)
        await queue.add("a")
        await reached.wait()
        queue.tasks["a"].cancel()
        await settle()
        released.set()
        await settle()
        assert queue.tasks["a"].cancelled()


async def test_waiter_ignores_shadow_policies_and_other_buckets() -> None:
    """A policy in shadow mode neither delays a waiter nor makes others wait."""
    policies = (rate_policy("a", "1/second"), rate_policy("b", "1/hour", mode="shadow"))
    async with Bench(*policies) as bench:
        queue = Queue(bench)
        await queue.add("one", "a", "b")
        await queue.add("two", "a", "b")
        await queue.add("free", "b")
        await bench.limiter.reset("a", principal="bob")
        assert queue.admitted == ["one", "free"]
        await queue.advance(1)
        assert queue.admitted == ["one", "free", "two"]


async def test_switched_off_limits_admit_at_once() -> None:
    """With `fleetlimit.testing.unlimited` no check waits."""
    async with Bench(rate_policy("a", "1/minute")) as bench:
        queue = Queue(bench)
        await queue.add("a")
        LIMIT_SWITCH.is_off = True
        try:
            await queue.add("b")
            assert queue.admitted == ["a", "b"]
        finally:
            LIMIT_SWITCH.is_off = False


async def test_acquire_pauses_on_the_event_loop_with_the_clock_of_the_process() -> None:
    """Without the clock of a test, a wait of a millisecond is one of real time."""
    clock = MonotonicClock()
    store = MemoryStore(clock.monotonic_us)
    limiter = Limiter(store, local=MemoryStore(clock.monotonic_us), clock=clock)
    cost = [PolicyCost(rate_policy("a", Quota(Algorithm.TOKEN_BUCKET, 1_000, SECOND_US, 1)), 1)]
    reservations = [
        await limiter.acquire(lambda: cost, ANN, timeout_us=60 * SECOND_US) for _ in range(5)
    ]
    assert all(each.decision.allowed for each in reservations)
    await limiter.aclose()
