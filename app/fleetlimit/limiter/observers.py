"""Observers, which receive the events.

Not compiled, because classes of an app may derive from `Observer`.
"""

from collections.abc import Iterable
from typing import Any, Final, Protocol

from fleetlimit.errors import ConfigError
from fleetlimit.limiter.app_function import is_async, require_no_generator, require_one_argument
from fleetlimit.limiter.events import Event

EXAMPLE: Final = "def on_event(self, event)"
"""How to write the method of an observer."""


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
        raise ConfigError(f"{subject} has no method `on_event`: write a class with `{EXAMPLE}`")
    if is_async(on_event):
        raise ConfigError(f"{subject} is async, and nothing awaits it: write `{EXAMPLE}`")
    require_no_generator(on_event, subject)
    require_one_argument(on_event, subject, EXAMPLE)
