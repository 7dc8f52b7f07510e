"""Dispatcher of events to the observers."""

import asyncio
import inspect
from collections.abc import Callable, Container, Sequence

from fleetlimit.core.decision import Outcome
from fleetlimit.limiter.clock import MonotonicClock
from fleetlimit.limiter.events import CheckDecided, Event
from fleetlimit.limiter.failure_log import FailureLog
from fleetlimit.limiter.observers import EXAMPLE, Observer, check_observers


class EventDispatcher:
    """Passes each event to all observers.

    Args:
        observers: The observers, in this order.
        failure_log: Log of the observers' failures; by default one of its own.

    Raises:
        ConfigError: An object is not an observer.
    """

    def __init__(
        self, observers: Sequence[Observer] = (), failure_log: FailureLog | None = None
    ) -> None:
        self._observers: tuple[Observer, ...] = ()
        # Most events are decisions, and most of our own observers have nothing to do then.
        self._of_outcome: dict[Outcome, tuple[Observer, ...]] = {}
        self._failure_log = failure_log or FailureLog(MonotonicClock())
        self._set(check_observers(observers))

    def add(self, observers: Sequence[Observer]) -> None:
        """Pass the events from now on to further observers, each of them once.

        Raises:
            ConfigError: An object is not an observer.
        """
        added = [
            each
            for each in check_observers(observers)
            if not any(each is old for old in self._observers)
        ]
        self._set((*self._observers, *added))

    def _set(self, observers: tuple[Observer, ...]) -> None:
        self._observers = observers
        self._of_outcome = {
            outcome: tuple(each for each in observers if outcome in _outcomes_of(each))
            for outcome in Outcome
        }

    def emit(self, event: Event) -> None:
        """Call all observers; the failure of one is logged and does not affect the others."""
        observers = self._observers
        if type(event) is CheckDecided:
            observers = self._of_outcome[event.decision.outcome]
        for observer in observers:
            try:
                # A wrong method may return something.
                on_event: Callable[[Event], object] = observer.on_event
                returned = on_event(event)
                if returned is not None:
                    _require_no_awaitable(returned)
            # A plain method is never cancelled: a `CancelledError` is a failure of its own.
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - it must not fail the request
                self._failure_log.write("observer.failed", error)


def _outcomes_of(observer: Observer) -> Container[Outcome]:
    """Return the outcomes whose decisions an observer gets."""
    # Objects such as mocks have an attribute of any name.
    found: object = getattr(observer, "only_outcomes", None)
    return found if isinstance(found, frozenset) else frozenset(Outcome)


def _require_no_awaitable(returned: object) -> None:
    if inspect.iscoroutine(returned):
        returned.close()
    if inspect.isawaitable(returned):
        raise TypeError(f"on_event returned an awaitable, which nothing awaits: write `{EXAMPLE}`")
