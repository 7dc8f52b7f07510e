"""The breaker: when nobody asks the store, and how it is asked again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from fleetlimit.core.decision import Source
from fleetlimit.core.subject import Principal, Subject
from fleetlimit.errors import BucketCorrupt, ConfigError, StoreError, StoreUnavailable
from fleetlimit.limiter.circuit_breaker import BreakerSettings, CircuitBreaker
from fleetlimit.limiter.events import BreakerChanged, BreakerState, StoreFailed, StoreStateLost
from fleetlimit.limiter.ports import HeartbeatReply
from support.limiter import (
    Bench,
    HeldCall,
    ManualSleep,
    Recorder,
    rate_policy,
    running,
    timeout_error,
)

OPENED, CLOSED = BreakerChanged(BreakerState.OPEN), BreakerChanged(BreakerState.CLOSED)
ANN = Subject(principal=Principal("ann"))


class BreakerBench:
    """A breaker with everything that it is given.

    Args:
        failures: Failures in a row that open it.
    """

    def __init__(self, failures: int = 2) -> None:
        self.recorder = Recorder()
        self.pauses = ManualSleep()
        self.probe_error: Exception | None = None
        self.probe_call = HeldCall()
        self.probes = 0
        self.breaker = CircuitBreaker(
            BreakerSettings(failures, 0.25), self._probe, self.recorder.on_event, sleep=self.pauses
        )

    def state(self) -> BreakerState:
        """Return the breaker's state."""
        return self.breaker.state

    async def _probe(self) -> None:
        self.probes += 1
        await self.probe_call.block()
        if self.probe_error is not None:
            raise self.probe_error

    async def call(self, error: StoreError | None = None, hold: HeldCall | None = None) -> str:
        """Do work through the breaker that ends like this."""

        async def work() -> str:
            if hold is not None:
                await hold.block()
            if error is not None:
                raise error
            return "done"

        return await self.breaker.call("acquire", work)

    async def fail(self, times: int = 1) -> None:
        """Let work fail."""
        for _ in range(times):
            with pytest.raises(StoreUnavailable, match="no answer"):
                await self.call(timeout_error())


@asynccontextmanager
async def breaker_bench(failures: int = 2) -> AsyncIterator[BreakerBench]:
    """Return a breaker that is closed down in the end, and leaves no task behind."""
    before = asyncio.all_tasks()
    switch = BreakerBench(failures)
    yield switch
    await switch.breaker.aclose()
    assert asyncio.all_tasks() <= before


async def test_it_opens_after_so_many_failures_in_a_row() -> None:
    """The last of so many failures opens the breaker, and not an earlier one."""
    async with breaker_bench(3) as switch:
        await switch.fail(2)
        assert switch.state() is BreakerState.CLOSED
        await switch.fail()
        assert switch.state() is BreakerState.OPEN
        assert [type(event) for event in switch.recorder.events.entries] == [
            StoreFailed,
            StoreFailed,
            StoreFailed,
            BreakerChanged,
        ]
        failed = switch.recorder.of(StoreFailed)[0]
        assert (failed.operation, failed.error.kind) == ("acquire", "timeout")


async def test_a_success_starts_the_count_again() -> None:
    """Failures with a success between them are not in a row."""
    async with breaker_bench(2) as switch:
        for _ in range(3):
            await switch.fail()
            assert await switch.call() == "done"
        assert switch.state() is BreakerState.CLOSED


async def test_while_it_is_open_no_work_is_tried() -> None:
    """An open breaker refuses at once, which is no failure of the store."""
    async with breaker_bench(1) as switch:
        await switch.fail()
        tried = HeldCall()
        for _ in range(3):
            with pytest.raises(StoreUnavailable) as refused:
                await switch.call(hold=tried)
            assert refused.value.kind == "breaker_open"
        assert not tried.reached.is_set()
        assert len(switch.recorder.of(StoreFailed)) == 1


async def test_a_bad_bucket_does_not_open_it() -> None:
    """A bucket that is none is told of each time, and says nothing about the store."""
    async with breaker_bench(1) as switch:
        for _ in range(5):
            with pytest.raises(BucketCorrupt):
                await switch.call(BucketCorrupt("no bucket", kind="wrong_type"))
        assert switch.state() is BreakerState.CLOSED
        assert len(switch.recorder.of(StoreFailed)) == 5


async def test_a_probe_in_the_background_closes_it() -> None:
    """One probe at a time runs, with pauses in between, until one succeeds."""
    async with breaker_bench(1) as switch:
        switch.probe_error = timeout_error()
        switch.probe_call.released.set()
        await switch.fail()
        await switch.pauses.wait_for_calls(1)
        switch.pauses.finish()
        await switch.pauses.wait_for_calls(2)
        assert switch.state() is BreakerState.OPEN
        switch.probe_error = None
        switch.pauses.finish()
        await switch.recorder.wait_for(CLOSED)
        assert await switch.call() == "done"
        assert (switch.probes, switch.pauses.requested.entries) == (3, [0.25, 0.25])
        assert switch.recorder.of(BreakerChanged) == [OPENED, CLOSED]


async def test_a_probe_that_fails_in_any_other_way_is_no_success() -> None:
    """A fault that nobody foresaw keeps the breaker open, and the probes going."""
    async with breaker_bench(1) as switch:
        switch.probe_error = ValueError("an answer that nobody understands")
        switch.probe_call.released.set()
        await switch.fail()
        await switch.pauses.wait_for_calls(1)
        assert switch.state() is BreakerState.OPEN
        switch.probe_error = None
        switch.pauses.finish()
        await switch.recorder.wait_for(CLOSED)


async def test_after_it_closed_it_takes_as_many_failures_again() -> None:
    """The failures that opened the breaker do not count towards the next time."""
    async with breaker_bench(2) as switch:
        switch.probe_call.released.set()
        await switch.fail(2)
        await switch.recorder.wait_for(CLOSED)
        await switch.fail()
        assert switch.state() is BreakerState.CLOSED
        await switch.fail()
        assert switch.state() is BreakerState.OPEN


async def test_late_failures_do_not_open_it_again() -> None:
    """Calls that began before the breaker opened say nothing of the store that came back."""
    async with breaker_bench(2) as switch:
        late = [HeldCall() for _ in range(4)]
        async with (
            running(switch.call(timeout_error(), late[0])) as one,
            running(switch.call(timeout_error(), late[1])) as two,
            running(switch.call(timeout_error(), late[2])) as three,
            running(switch.call(timeout_error(), late[3])) as four,
        ):
            for hold in late:
                await hold.wait()
            await switch.fail(2)
            late[0].released.set()
            await asyncio.wait({one})
            switch.probe_call.released.set()
            await switch.recorder.wait_for(CLOSED)
            for hold in late:
                hold.released.set()
            await asyncio.wait({two, three, four})
            assert {type(task.exception()) for task in (one, two, three, four)} == {
                StoreUnavailable
            }
            assert switch.state() is BreakerState.CLOSED
            assert switch.recorder.of(BreakerChanged) == [OPENED, CLOSED]
            assert len(switch.recorder.of(StoreFailed)) == 6


async def test_many_failures_at_once_open_it_once() -> None:
    """Failures that arrive together start one probe and are told as one change."""
    async with breaker_bench(2) as switch:
        hold = HeldCall()
        calls = [switch.call(timeout_error(), hold) for _ in range(6)]
        together = asyncio.gather(*calls, return_exceptions=True)
        await hold.wait()
        hold.released.set()
        assert {type(each) for each in await together} == {StoreUnavailable}
        assert len(switch.recorder.of(StoreFailed)) == 6
        await switch.probe_call.wait()
        assert switch.probes == 1
        assert switch.recorder.of(BreakerChanged) == [OPENED]


async def test_it_is_closed_down_while_it_probes() -> None:
    """Closing down stops the probe, whether it asks or pauses, and works twice."""
    for pausing in (False, True):
        async with breaker_bench(1) as switch:
            switch.probe_error = timeout_error()
            if pausing:
                switch.probe_call.released.set()
            await switch.fail()
            await (switch.pauses.wait_for_calls(1) if pausing else switch.probe_call.wait())
            await switch.breaker.aclose()
            assert switch.recorder.of(BreakerChanged) == [OPENED]


async def test_a_failure_after_closing_down_starts_no_probe() -> None:
    """A call that outlives the breaker leaves no task behind when it fails."""
    async with breaker_bench(1) as switch:
        await switch.breaker.aclose()
        await switch.fail()
        assert switch.state() is BreakerState.CLOSED


@pytest.mark.parametrize(("failures", "seconds"), [(0, 0.5), (1, 0), (1, -1)])
async def test_impossible_settings_are_refused(failures: int, seconds: float) -> None:
    """A breaker without a failure or a pause cannot be built."""
    with pytest.raises(ConfigError, match="at least 1 failure and a pause above 0"):
        BreakerSettings(failures, seconds)


async def test_nobody_calls_a_store_that_is_away() -> None:
    """While the breaker is open, checks are decided without a single call to the store."""
    async with Bench(rate_policy("a", "100/minute")) as bench:
        bench.store.down = timeout_error()
        hold = bench.store.hold("open")
        for _ in range(3):
            await bench.limiter.check("a", principal="ann")
        assert bench.limiter.breaker_state is BreakerState.OPEN
        await hold.wait()
        bench.store.calls.clear()
        decisions = [await bench.limiter.check("a", principal="ann") for _ in range(20)]
        assert bench.store.calls == []
        assert {each.source for each in decisions} == {Source.LOCAL}
        for operation in (bench.limiter.peek, bench.limiter.reset):
            with pytest.raises(StoreUnavailable):
                await operation("a", principal="ann")
        assert bench.store.calls == []


async def test_the_first_check_after_the_return_finds_the_store() -> None:
    """When the probe has succeeded the next check is decided by the store, its state known."""
    async with Bench(rate_policy("a", "100/minute"), failures=1) as bench:
        await bench.limiter.start()
        bench.store.down = timeout_error()
        hold = bench.store.hold("open")
        await bench.limiter.check("a", principal="ann")
        await hold.wait()
        bench.store.down = None
        bench.store.heartbeat_reply = HeartbeatReply(2, "second")
        hold.released.set()
        await bench.recorder.wait_for(CLOSED)
        assert bench.recorder.of(StoreStateLost) == [StoreStateLost()]
        assert bench.limiter.membership.replicas == 2
        assert (await bench.limiter.check("a", principal="ann")).source is Source.STORE


@pytest.mark.parametrize("verb", ["open", "acquire", "heartbeat", "delete", "adjust"])
async def test_no_exception_reaches_a_request_slowapi_213(verb: str) -> None:
    """Whatever verb of the store fails, starting, checking and correcting raise nothing."""
    async with Bench(rate_policy("a", "100/minute"), failures=100) as bench:
        bench.store.errors[verb] = timeout_error()
        await bench.limiter.start()
        reservation = await bench.limiter.reserve("a", principal="ann")
        assert reservation.decision.allowed
        await reservation.commit(3)
        if verb == "delete":
            with pytest.raises(StoreUnavailable):
                await bench.limiter.reset("a", principal="ann")
        failures = {event.operation for event in bench.recorder.of(StoreFailed)}
        assert failures == {verb}
        assert bench.limiter.breaker_state is BreakerState.CLOSED


async def test_one_bad_bucket_hurts_its_own_caller_alone() -> None:
    """A key that holds no bucket is decided without the store, and other keys as ever."""
    async with Bench(rate_policy("a", "100/minute"), failures=1) as bench:
        bench.store.errors["acquire"] = BucketCorrupt("no bucket", kind="wrong_type")
        assert (await bench.limiter.check("a", principal="ann")).source is Source.LOCAL
        bench.store.errors.clear()
        assert (await bench.limiter.check("a", principal="bob")).source is Source.STORE
