"""Observers, and the dispatcher that passes events to them.

Not compiled, because classes of an app may derive from `Observer`.
"""

import asyncio
import inspect
from collections.abc import Container, Iterable, Sequence
from typing import Any, Final, Protocol

from fleetlimit.core.decision import Outcome
from fleetlimit.errors import ConfigError
from fleetlimit.limiter.app_function import is_async, require_no_generator, require_one_argument
from fleetlimit.limiter.clock import MonotonicClock
from fleetlimit.limiter.events import CheckDecided, Event
from fleetlimit.limiter.failure_log import FailureLog

_EXAMPLE: Final = "def on_event(self, event)"


class Observer(Protocol):
    """Receiver of events. It never decides, and its failure is logged and ignored.

    It is not bounded in time: a method that blocks delays all requests of the process. One with an
    attribute `only_outcomes`, a frozenset of `Outcome`, gets the `CheckDecided` of these only.
    """

    def on_event(self, event: Event) -> None:
        """Handle an event. Runs in the event loop and must not block."""
        ...


def check_observers(observers: Iterable[Observer]) -> tuple[Observer, ...]:
    """Return the observers that the app has given.

    Raises:
        ConfigError: They are not a list, or the method of one would not receive events; the message
            says what to write.
    """
    if not isinstance(observers, Iterable):
        raise ConfigError(f"observers={observers!r} is not a list: write observers=[...]")
    checked = tuple(observers)
    for each in checked:
        _check_observer(each)
    return checked


def _check_observer(observer: Any) -> None:
    subject = f"the observer {observer!r}"
    if isinstance(observer, type):
        raise ConfigError(f"{subject} is a class: write {observer.__name__}()")
    on_event = getattr(observer, "on_event", None)
    if not callable(on_event):
        raise ConfigError(f"{subject} has no method `on_event`: write a class with `{_EXAMPLE}`")
    if is_async(on_event):
        raise ConfigError(f"{subject} is async, and nothing awaits it: write `{_EXAMPLE}`")
    require_no_generator(on_event, subject)
    require_one_argument(on_event, subject, _EXAMPLE)


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
                returned: object = observer.on_event(event)  # type: ignore[func-returns-value]  # a wrong one may
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
        raise TypeError(f"on_event returned an awaitable, which nothing awaits: write `{_EXAMPLE}`")
