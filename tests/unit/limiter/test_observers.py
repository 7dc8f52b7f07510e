"""Event dispatcher: every event reaches every observer, and a failing one has no effect."""

import asyncio
import functools
import logging
from collections.abc import Callable
from typing import Any

import pytest

from fleetlimit import ConfigError, Fleetlimit
from fleetlimit.core.decision import EXEMPT, Decision, Outcome, Source
from fleetlimit.limiter.dispatcher import EventDispatcher
from fleetlimit.limiter.events import (
    BreakerChanged,
    BreakerState,
    CheckDecided,
    Event,
    StoreStateLost,
)
from fleetlimit.limiter.limiter import Limiter
from fleetlimit.limiter.log_sampler import LINES_PER_WINDOW
from fleetlimit.limiter.observers import Observer
from fleetlimit.stores.memory import MemoryStore
from support.clock import ManualClock
from support.limiter import Bench, FakeStore, Recorder, rate_policy, timeout_error


class FailingObserver:
    """An observer that raises at every event."""

    def on_event(self, event: Event) -> None:
        """Raise an exception."""
        raise RuntimeError(str(event))


class DerivedObserver(Observer):
    """An observer of an app that derives from the protocol."""

    def __init__(self) -> None:
        self.seen: list[Event] = []

    def on_event(self, event: Event) -> None:
        """Keep the event."""
        self.seen.append(event)


def test_observer_may_derive_from_the_protocol() -> None:
    """Also with the compiled build, whose own classes an app cannot derive from."""
    derived = DerivedObserver()
    EventDispatcher([derived]).emit(StoreStateLost())
    assert derived.seen == [StoreStateLost()]


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


class DenialsOnly(Recorder):
    """An observer of denials."""

    only_outcomes = frozenset({Outcome.DENIED})


@pytest.mark.parametrize("outcome", Outcome)
async def test_observer_of_some_outcomes_gets_all_other_events(outcome: Outcome) -> None:
    """Decisions of other outcomes are left out; an observer without the set gets them all."""
    every, denials, added = Recorder(), DenialsOnly(), DenialsOnly()
    dispatcher = EventDispatcher([denials, every])
    dispatcher.add([added])
    event = CheckDecided(
        Decision(outcome, Source.STORE),
        "hash",
        anonymous=False,
        tier="",
        route="GET /",
        seconds=0.1,
    )
    dispatcher.emit(event)
    dispatcher.emit(StoreStateLost())
    assert every.events.entries == [event, StoreStateLost()]
    expected = every.events.entries if outcome is Outcome.DENIED else [StoreStateLost()]
    assert denials.events.entries == added.events.entries == expected


async def test_observer_with_any_attribute_gets_every_decision() -> None:
    """An object that has an attribute of every name, as a mock has, limits nothing."""

    class AnyAttribute(Recorder):
        def __getattr__(self, name: str) -> list[str]:
            return []

    recorder = AnyAttribute()
    event = CheckDecided(EXEMPT, "hash", anonymous=False, tier="", route="GET /", seconds=0.1)
    EventDispatcher([recorder]).emit(event)
    assert recorder.events.entries == [event]


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
    assert {record.message.split(" ")[0] for record in caplog.records} == {
        "observer.failed",
        "observer.failed.suppressed",
    }


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


class AsyncObserver:
    """Observer whose method is never awaited."""

    async def on_event(self, event: Event) -> None:
        """Handle an event."""


class GeneratorObserver:
    """Observer whose method never runs."""

    def on_event(self, event: Event) -> Any:
        """Handle an event."""
        yield event


class NoArgument:
    """Observer that receives nothing."""

    def on_event(self) -> None:
        """Handle an event."""


class Partial:
    """Observer whose method is async behind a partial."""

    on_event = staticmethod(functools.partial(AsyncObserver().on_event))


@pytest.mark.parametrize(
    ("observer", "message"),
    [
        (AsyncObserver(), "is async, and nothing awaits it: write `def on_event"),
        (Partial(), "is async, and nothing awaits it"),
        (GeneratorObserver(), r"is a generator: write `return` in place of `yield`"),
        (NoArgument(), r"cannot be called with one argument: write `def on_event\(self, event\)`"),
        (Recorder, r"is a class: write Recorder\(\)"),
        (print, r"has no method `on_event`: write a class with `def on_event\(self, event\)`"),
        (None, "has no method `on_event`"),
    ],
)
async def test_mistakes_are_errors_when_the_observer_is_given(observer: Any, message: str) -> None:
    """Such an observer would receive nothing, or fail at each event."""
    limiter = Limiter(MemoryStore(), local=MemoryStore())
    for give in (
        lambda: Limiter(MemoryStore(), local=MemoryStore(), observers=[observer]),
        lambda: Fleetlimit(observers=[observer]),
        lambda: limiter.add_observers([observer]),
    ):
        with pytest.raises(ConfigError, match=f"the observer .*{message}"):
            give()


def test_single_observer_in_place_of_a_list_is_an_error() -> None:
    """The message has the list to write."""
    with pytest.raises(ConfigError, match=r"observers=.* is not a list: write observers=\["):
        Fleetlimit(observers=Recorder())  # type: ignore[arg-type]  # the mistake


class Returning:
    """Observer that returns, or raises, what it was given."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    def on_event(self, _event: Event) -> Any:
        """Return or raise."""
        made = self._make()
        if isinstance(made, BaseException):
            raise made
        return made


async def later() -> None: ...


def future() -> Any:
    """Return an awaitable that is no coroutine."""
    return asyncio.get_running_loop().create_future()


async def test_other_result_of_an_observer_is_ignored(caplog: pytest.LogCaptureFixture) -> None:
    """Only an awaitable would be lost."""
    EventDispatcher([Returning(lambda: 1)]).emit(StoreStateLost())
    assert not caplog.messages


@pytest.mark.parametrize("make", [later, future, asyncio.CancelledError, RuntimeError])
async def test_observer_never_fails_a_check_and_its_log_is_sampled(
    make: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Neither a cancellation of its own nor a result that nothing awaits is lost in silence."""
    clock, recorder = ManualClock(), Recorder()
    limiter = Limiter(
        MemoryStore(clock.monotonic_us),
        local=MemoryStore(),
        clock=clock,
        observers=[Returning(make), recorder],
    )
    for _ in range(LINES_PER_WINDOW + 3):
        assert (await limiter.check(rate_policy("a", "99/minute"), principal="ann")).allowed
    assert len(recorder.of(CheckDecided)) == LINES_PER_WINDOW + 3
    assert caplog.messages == ["observer.failed"] * LINES_PER_WINDOW
    await limiter.aclose()
    (summary,) = caplog.messages[LINES_PER_WINDOW:]
    assert summary.startswith("observer.failed.suppressed error=")
    assert summary.endswith(" suppressed=3")
