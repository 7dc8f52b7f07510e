"""Closing a limiter: no task is left, whatever was in flight."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from fleetlimit.core.decision import Decision, Source
from fleetlimit.limiter.events import BreakerState
from fleetlimit.limiter.limiter import Limiter
from fleetlimit.limiter.ports import CheckSpan
from support.limiter import Bench, concurrency_policy, rate_policy, running, timeout_error


async def test_limiter_aclose_without_start() -> None:
    """A limiter that was never started is closed, and so are its stores."""
    async with Bench(rate_policy("a", "1/minute")) as bench:
        await bench.limiter.aclose()
        assert bench.store.calls == []
        assert bench.store.closed == 1


async def test_limiter_aclose_twice() -> None:
    """A second close does not unregister the replica again."""
    async with Bench(rate_policy("a", "1/minute")) as bench:
        await bench.limiter.start()
        await bench.limiter.aclose()
        calls = list(bench.store.calls)
        await bench.limiter.aclose()
        assert bench.store.calls == calls


async def test_limiter_aclose_during_a_probe() -> None:
    """A limiter whose store is unavailable is closed at once, even during a probe."""
    async with Bench(rate_policy("a", "9/minute"), failures=1) as bench:
        await bench.limiter.start()
        bench.store.down = timeout_error()
        probe = bench.store.hold("open")
        await bench.limiter.check("a", principal="ann")
        await probe.wait()
        await bench.limiter.aclose()
        assert bench.store.heartbeats[-1][1] > 0


async def test_limiter_aclose_stops_renewing_leases() -> None:
    """Leases of requests that outlive the limiter are no longer renewed, and expire."""
    async with Bench(concurrency_policy("c", 1)) as bench:
        await bench.limiter.start()
        held = await bench.limiter.reserve("c", principal="ann")
        await bench.limiter.aclose()
        assert held.leases


async def test_limiter_aclose_leaves_no_probe() -> None:
    """A store that fails while the replica unregisters is not probed."""
    async with Bench(failures=1) as bench:
        await bench.limiter.start()
        bench.store.down = timeout_error()
        await bench.limiter.aclose()
        assert bench.store.heartbeats[-1] == ("me", 0)


async def test_check_that_outlives_the_limiter_leaves_no_probe() -> None:
    """A request in flight while the limiter is closed is decided, and no task is left."""
    async with Bench(rate_policy("a", "9/minute"), failures=1) as bench:
        hold = bench.store.hold("acquire", error=timeout_error())
        async with running(bench.limiter.check("a", principal="ann")) as request:
            await hold.wait()
            await bench.limiter.aclose()
            hold.released.set()
            assert (await request).source is Source.LOCAL
        assert bench.limiter.breaker_state is BreakerState.CLOSED


async def test_limiter_started_again_opens_its_breaker() -> None:
    """A second start of the same limiter works as the first one."""
    async with Bench(rate_policy("a", "9/minute"), failures=1) as bench:
        await bench.limiter.start()
        await bench.limiter.aclose()
        await bench.limiter.start()
        bench.store.down = timeout_error()
        bench.store.hold("open")
        await bench.limiter.check("a", principal="ann")
        assert bench.limiter.breaker_state is BreakerState.OPEN


async def test_tracer_records_the_decision_of_a_check() -> None:
    """A tracer opens one span for each sampled check, with its decision."""
    calls: list[object] = []

    class Tracer:
        def is_sampled(self) -> bool:
            return len(calls) < 3

        @contextmanager
        def start_check(self, policies: Sequence[str]) -> Iterator[CheckSpan]:
            calls.append(list(policies))
            yield self
            calls.append("closed")

        def set_decision(self, decision: Decision) -> None:
            calls.append(decision)

    bench = Bench()
    limiter = Limiter(bench.store, local=bench.local, tracer=Tracer())
    decision = await limiter.check(
        rate_policy("a", "1/minute"), rate_policy("b", "1/minute"), principal="ann"
    )
    assert calls == [["a", "b"], decision, "closed"]
    assert (await limiter.check(rate_policy("a", "9/minute"), principal="ben")).allowed
    assert len(calls) == 3
