"""Circuit breaker: when it opens, and how it closes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from fleetlimit.core.decision import Source
from fleetlimit.core.subject import Principal, Subject
from fleetlimit.errors import BucketCorrupt, ConfigError, StoreError, StoreUnavailable
from fleetlimit.limiter.circuit_breaker import BreakerSettings, CircuitBreaker
from fleetlimit.limiter.events import BreakerChanged, BreakerState, StoreFailed, StoreStateLost
from fleetlimit.limiter.store_replies import HeartbeatReply
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
    """A circuit breaker with its collaborators.

    Args:
        failures: Consecutive failures that open it.
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
        """Return the state of the breaker."""
        return self.breaker.state

    async def _probe(self) -> None:
        self.probes += 1
        await self.probe_call.block()
        if self.probe_error is not None:
            raise self.probe_error

    async def call(self, error: StoreError | None = None, hold: HeldCall | None = None) -> str:
        """Call a function through the breaker that ends like this."""

        async def work() -> str:
            if hold is not None:
                await hold.block()
            if error is not None:
                raise error
            return "done"

        return await self.breaker.call("acquire", work)

    async def fail(self, times: int = 1) -> None:
        """Let calls fail."""
        for _ in range(times):
            with pytest.raises(StoreUnavailable, match="no answer"):
                await self.call(timeout_error())


@asynccontextmanager
async def breaker_bench(failures: int = 2) -> AsyncIterator[BreakerBench]:
    """Yield a breaker, close it at the end, and check that no task is left."""
    before = asyncio.all_tasks()
    bench = BreakerBench(failures)
    yield bench
    await bench.breaker.aclose()
    assert asyncio.all_tasks() <= before


async def test_circuit_breaker_opens_after_consecutive_failures() -> None:
    """The last of these failures opens it, and not an earlier one."""
    async with breaker_bench(3) as bench:
        await bench.fail(2)
        assert bench.state() is BreakerState.CLOSED
        await bench.fail()
        assert bench.state() is BreakerState.OPEN
        assert [type(event) for event in bench.recorder.events.entries] == [
            StoreFailed,
            StoreFailed,
            StoreFailed,
            BreakerChanged,
        ]
        failed = bench.recorder.of(StoreFailed)[0]
        assert (failed.operation, failed.error.kind) == ("acquire", "timeout")


async def test_circuit_breaker_success_resets_the_count() -> None:
    """Failures with a success between them are not consecutive."""
    async with breaker_bench(2) as bench:
        for _ in range(3):
            await bench.fail()
            assert await bench.call() == "done"
        assert bench.state() is BreakerState.CLOSED


async def test_circuit_breaker_counts_an_error_of_several_calls_once() -> None:
    """The calls of a failed pipeline raise one error object, which is one failure."""
    async with breaker_bench(2) as bench:
        late = timeout_error()
        for _ in range(5):
            with pytest.raises(StoreUnavailable):
                await bench.call(late)
        assert bench.state() is BreakerState.CLOSED
        assert len(bench.recorder.of(StoreFailed)) == 5
        await bench.fail()
        assert bench.state() is BreakerState.OPEN


async def test_circuit_breaker_counts_the_same_error_again_after_a_success() -> None:
    """A success forgets the last error."""
    async with breaker_bench(1) as bench:
        bench.probe_call.released.set()
        late = timeout_error()
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                await bench.call(late)
            await bench.recorder.wait_for(CLOSED)
            bench.recorder.events.entries.remove(CLOSED)
            assert bench.recorder.of(BreakerChanged) == [OPENED]
            bench.recorder.events.entries.remove(OPENED)


async def test_circuit_breaker_opens_again_after_start() -> None:
    """A breaker that was closed for good while open is closed by `start`, and opens again."""
    async with breaker_bench(1) as bench:
        await bench.fail()
        await bench.breaker.aclose()
        with pytest.raises(StoreUnavailable, match="breaker is open"):
            await bench.call()
        bench.breaker.start()
        assert bench.recorder.of(BreakerChanged) == [OPENED, CLOSED]
        assert await bench.call() == "done"
        await bench.fail()
        assert bench.state() is BreakerState.OPEN
        await bench.breaker.aclose()


def test_circuit_breaker_probes_in_another_event_loop() -> None:
    """A breaker that opened in an event loop that was closed is probed in the next one."""
    bench = BreakerBench(1)
    bench.probe_error = timeout_error()
    asyncio.run(bench.fail())
    bench.probe_error = None

    async def use() -> str:
        bench.probe_call.released.set()
        with pytest.raises(StoreUnavailable, match="breaker is open"):
            await bench.call()
        await bench.recorder.wait_for(CLOSED)
        return await bench.call()

    assert asyncio.run(use()) == "done"
    asyncio.run(bench.breaker.aclose())


async def test_open_circuit_breaker_makes_no_call() -> None:
    """A call fails at once, and does not count as a failure of the store."""
    async with breaker_bench(1) as bench:
        await bench.fail()
        tried = HeldCall()
        for _ in range(3):
            with pytest.raises(StoreUnavailable) as rejected:
                await bench.call(hold=tried)
            assert rejected.value.kind == "breaker_open"
        assert not tried.reached.is_set()
        assert len(bench.recorder.of(StoreFailed)) == 1


async def test_circuit_breaker_ignores_corrupt_buckets() -> None:
    """A corrupt bucket is emitted each time, and does not count as a failure."""
    async with breaker_bench(1) as bench:
        for _ in range(5):
            with pytest.raises(BucketCorrupt):
                await bench.call(BucketCorrupt("no bucket", kind="wrong_type"))
        assert bench.state() is BreakerState.CLOSED
        assert len(bench.recorder.of(StoreFailed)) == 5


async def test_circuit_breaker_probe_closes_it() -> None:
    """One probe at a time runs, with pauses in between, until one succeeds."""
    async with breaker_bench(1) as bench:
        bench.probe_error = timeout_error()
        bench.probe_call.released.set()
        await bench.fail()
        await bench.pauses.wait_for_calls(1)
        bench.pauses.finish()
        await bench.pauses.wait_for_calls(2)
        assert bench.state() is BreakerState.OPEN
        bench.probe_error = None
        bench.pauses.finish()
        await bench.recorder.wait_for(CLOSED)
        assert await bench.call() == "done"
        assert (bench.probes, bench.pauses.requested.entries) == (3, [0.25, 0.25])
        assert bench.recorder.of(BreakerChanged) == [OPENED, CLOSED]


async def test_circuit_breaker_probe_survives_an_unexpected_error() -> None:
    """Another exception keeps the breaker open, and the probes running."""
    async with breaker_bench(1) as bench:
        bench.probe_error = ValueError("an unexpected reply")
        bench.probe_call.released.set()
        await bench.fail()
        await bench.pauses.wait_for_calls(1)
        assert bench.state() is BreakerState.OPEN
        bench.probe_error = None
        bench.pauses.finish()
        await bench.recorder.wait_for(CLOSED)


async def test_closed_circuit_breaker_counts_from_zero() -> None:
    """The failures that opened the breaker do not count towards the next time."""
    async with breaker_bench(2) as bench:
        bench.probe_call.released.set()
        await bench.fail(2)
        await bench.recorder.wait_for(CLOSED)
        await bench.fail()
        assert bench.state() is BreakerState.CLOSED
        await bench.fail()
        assert bench.state() is BreakerState.OPEN


async def test_circuit_breaker_ignores_calls_from_before_it_opened() -> None:
    """Calls that began before the breaker opened do not open it after its return."""
    async with breaker_bench(2) as bench:
        late = [HeldCall() for _ in range(4)]
        async with (
            running(bench.call(timeout_error(), late[0])) as one,
            running(bench.call(timeout_error(), late[1])) as two,
            running(bench.call(timeout_error(), late[2])) as three,
            running(bench.call(timeout_error(), late[3])) as four,
        ):
            for hold in late:
                await hold.wait()
            await bench.fail(2)
            late[0].released.set()
            await asyncio.wait({one})
            bench.probe_call.released.set()
            await bench.recorder.wait_for(CLOSED)
            for hold in late:
                hold.released.set()
            await asyncio.wait({two, three, four})
            assert {type(task.exception()) for task in (one, two, three, four)} == {
                StoreUnavailable
            }
            assert bench.state() is BreakerState.CLOSED
            assert bench.recorder.of(BreakerChanged) == [OPENED, CLOSED]
            assert len(bench.recorder.of(StoreFailed)) == 6


async def test_circuit_breaker_opens_once_for_simultaneous_failures() -> None:
    """Simultaneous failures start one probe and emit one change."""
    async with breaker_bench(2) as bench:
        hold = HeldCall()
        calls = [bench.call(timeout_error(), hold) for _ in range(6)]
        together = asyncio.gather(*calls, return_exceptions=True)
        await hold.wait()
        hold.released.set()
        assert {type(each) for each in await together} == {StoreUnavailable}
        assert len(bench.recorder.of(StoreFailed)) == 6
        await bench.probe_call.wait()
        assert bench.probes == 1
        assert bench.recorder.of(BreakerChanged) == [OPENED]


async def test_circuit_breaker_aclose_stops_the_probe() -> None:
    """Closing stops the probe, in a call or in a pause, and works twice."""
    for pausing in (False, True):
        async with breaker_bench(1) as bench:
            bench.probe_error = timeout_error()
            if pausing:
                bench.probe_call.released.set()
            await bench.fail()
            await (bench.pauses.wait_for_calls(1) if pausing else bench.probe_call.wait())
            await bench.breaker.aclose()
            assert bench.recorder.of(BreakerChanged) == [OPENED]


async def test_circuit_breaker_does_not_open_after_aclose() -> None:
    """A call that outlives the breaker starts no task when it fails."""
    async with breaker_bench(1) as bench:
        await bench.breaker.aclose()
        await bench.fail()
        assert bench.state() is BreakerState.CLOSED


@pytest.mark.parametrize(("failures", "seconds"), [(0, 0.5), (1, 0), (1, -1)])
async def test_breaker_settings_reject_invalid_values(failures: int, seconds: float) -> None:
    """At least one failure and a positive pause are required."""
    with pytest.raises(ConfigError, match="at least 1 failure and a pause above 0"):
        BreakerSettings(failures, seconds)


async def test_limiter_makes_no_call_while_the_breaker_is_open() -> None:
    """While the breaker is open, checks are decided without a call of the store."""
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


async def test_limiter_uses_the_store_after_the_first_successful_probe() -> None:
    """The next check is decided by the store, whose loss of state is known."""
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
async def test_limiter_raises_no_store_error_slowapi_213(verb: str) -> None:
    """Whatever store method fails, starting, checking and correcting raise nothing."""
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


async def test_corrupt_bucket_affects_only_its_caller() -> None:
    """A corrupt bucket is decided without the store, and other keys as before."""
    async with Bench(rate_policy("a", "100/minute"), failures=1) as bench:
        bench.store.errors["acquire"] = BucketCorrupt("no bucket", kind="wrong_type")
        assert (await bench.limiter.check("a", principal="ann")).source is Source.LOCAL
        bench.store.errors.clear()
        assert (await bench.limiter.check("a", principal="bob")).source is Source.STORE


async def test_corrupt_membership_does_not_keep_the_breaker_open() -> None:
    """The store that is back decides, though another program uses the key of the membership."""
    async with Bench(rate_policy("a", "100/minute"), failures=1) as bench:
        bench.store.errors["heartbeat"] = BucketCorrupt("no set", kind="wrong_type")
        bench.store.errors["acquire"] = timeout_error()
        await bench.limiter.check("a", principal="ann")
        bench.store.errors.pop("acquire")
        await bench.recorder.wait_for(CLOSED)
        assert (await bench.limiter.check("a", principal="ann")).source is Source.STORE
