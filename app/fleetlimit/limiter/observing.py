"""Telling observers, none of whom can hurt a request or each other."""

import logging
from collections.abc import Sequence

from fleetlimit.limiter.events import Event
from fleetlimit.limiter.ports import Observer

_log = logging.getLogger("fleetlimit")


class Observers:
    """Tells each observer of each event.

    Args:
        observers: Whom to tell, in this order.
    """

    def __init__(self, observers: Sequence[Observer] = ()) -> None:
        self._observers = tuple(observers)

    def tell(self, event: Event) -> None:
        """Tell everybody; one that fails is logged, and the next is told all the same."""
        for observer in self._observers:
            try:
                observer.observe(event)
            except Exception:  # noqa: BLE001 - whatever it is, it must not reach the request
                _log.exception("observer.failed")
