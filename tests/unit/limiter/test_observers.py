"""Event dispatcher: every event reaches every observer, and a failing one has no effect."""

import logging

import pytest

from fleetlimit.limiter.events import (
    BreakerChanged,
    BreakerState,
    CheckDecided,
    Event,
    EventDispatcher,
    StoreStateLost,
)
from fleetlimit.limiter.limiter import Limiter
from fleetlimit.stores.memory import MemoryStore
from support.clock import ManualClock
from support.limiter import Bench, FakeStore, Recorder, rate_policy, timeout_error


class FailingObserver:
    """An observer that raises at every event."""

    def on_event(self, event: Event) -> None:
        """Raise an exception."""
        raise RuntimeError(str(event))


async def test_observer_is_added_once() -> None:
    """An observer that is added receives each event from then on once, after the first ones."""
    first, later = Recorder(), Recorder()
    limiter = Limiter(MemoryStore(), local=MemoryStore(), observers=[first])
    limiter.emit(StoreStateLost())
    for _ in range(2):
        limiter.add_observers([later, first])
    limiter.emit(StoreStateLost())
    assert first.events.entries == [StoreStateLost()] * 2
    assert later.events.entries == [StoreStateLost()]
    await limiter.aclose()


async def test_dispatcher_isolates_a_failing_observer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The observers before and after it receive the event, and the failure is logged."""
    first, last = Recorder(), Recorder()
    with caplog.at_level(logging.ERROR, "fleetlimit"):
        EventDispatcher([first, FailingObserver(), last]).emit(StoreStateLost())
    assert first.events.entries == last.events.entries == [StoreStateLost()]
    assert [record.message for record in caplog.records] == ["observer.failed"]
    assert caplog.records[0].exc_info is not None


async def test_dispatcher_without_observers() -> None:
    """Without observers an event is dropped."""
    EventDispatcher().emit(StoreStateLost())


async def test_failing_observer_does_not_affect_checks(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Checks are decided, and the breaker opens and closes."""
    clock, recorder = ManualClock(), Recorder()
    store = FakeStore(clock)
    limiter = Limiter(
        store,
        local=MemoryStore(clock.monotonic_us),
        clock=clock,
        observers=[FailingObserver(), recorder],
    )
    await limiter.start()
    assert (await limiter.check(rate_policy("a", "5/minute"), principal="ann")).allowed
    store.down = timeout_error()
    probe = store.hold("open")
    for _ in range(3):
        assert (await limiter.check(rate_policy("a", "5/minute"), principal="ann")).allowed
    store.down = None
    probe.released.set()
    await recorder.wait_for(BreakerChanged(BreakerState.CLOSED))
    await limiter.aclose()
    assert len(recorder.of(CheckDecided)) == 4
    assert {record.message for record in caplog.records} == {"observer.failed"}


async def test_every_decision_is_emitted() -> None:
    """Decisions of the store, the cache, the fallback and without a policy are emitted."""
    async with Bench(rate_policy("a", "2/minute"), failures=1_000) as bench:
        decisions = [await bench.limiter.check("a", principal="ann") for _ in range(4)]
        decisions.append(await bench.limiter.check())
        bench.store.down = timeout_error()
        decisions += [await bench.limiter.check("a", principal="bob") for _ in range(3)]
        assert [each.decision for each in bench.recorder.of(CheckDecided)] == decisions
        assert [(each.outcome, each.source) for each in decisions] == [
            ("allowed", "store"),
            ("allowed", "store"),
            ("denied", "store"),
            ("denied", "cache"),
            ("exempt", "none"),
            ("allowed", "local"),
            ("allowed", "local"),
            ("denied", "local"),
        ]


async def test_each_decision_is_emitted_once() -> None:
    """Decided by the store or from the denial cache, a check is one event."""
    policy, recorder = rate_policy("a", "1/minute"), Recorder()
    limiter = Limiter(MemoryStore(), local=MemoryStore(), observers=[recorder])
    await limiter.start()
    found = [await limiter.check(policy, principal="ann") for _ in range(3)]
    await limiter.aclose()
    assert [each.source for each in found] == ["store", "store", "cache"]
    assert [each.decision for each in recorder.of(CheckDecided)] == found
