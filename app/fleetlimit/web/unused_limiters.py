"""Limiters that no app uses: an app must not get a default one in silence beside them."""

import logging
from typing import Any, Final
from weakref import WeakKeyDictionary, WeakSet

from fleetlimit.errors import ConfigError
from fleetlimit.limiter.limiter import Limiter
from fleetlimit.web.app_limiter import HOW_TO_USE, LIMITER_KEY
from fleetlimit.web.http_limiter import HTTPLimiter

_log = logging.getLogger("fleetlimit")


class _Unused:
    """The limiters that no app uses, running or not, and the apps that have a default one."""

    def __init__(self) -> None:
        self.not_started: WeakKeyDictionary[Limiter, str] = WeakKeyDictionary()
        self.used: WeakSet[Limiter] = WeakSet()
        self.descriptions: WeakKeyDictionary[Limiter, str] = WeakKeyDictionary()
        self.default_limiters: WeakKeyDictionary[Any, HTTPLimiter] = WeakKeyDictionary()


_unused: Final = _Unused()


def mark_made(limiter: Limiter, description: str) -> None:
    """Record a limiter, for the warning that no app uses it.

    Args:
        limiter: The limiter.
        description: The call that made it.
    """
    _unused.not_started[limiter] = description


def mark_started(limiter: Limiter, description: str) -> None:
    """Record a limiter that was started.

    An app that uses the dependencies alone gets no default limiter while there is one that no app
    uses: its limits would not be those of the limiter that a container started.

    Args:
        limiter: The limiter.
        description: The call that made it, for the error.
    """
    _unused.not_started.pop(limiter, None)
    if limiter in _unused.used:
        return
    _unused.descriptions[limiter] = description
    # Their next request finds no limiter, and `open_default_limiter` checks again.
    for app, http_limiter in list(_unused.default_limiters.items()):
        if getattr(app, LIMITER_KEY, None) is http_limiter:
            delattr(app, LIMITER_KEY)


def mark_used(limiter: Limiter) -> None:
    """Record that an app uses a limiter, started or not."""
    _unused.used.add(limiter)
    _unused.not_started.pop(limiter, None)
    mark_closed(limiter)


def mark_closed(limiter: Limiter) -> None:
    """Record that a limiter was closed."""
    _unused.descriptions.pop(limiter, None)


def get_default_limiter(app: Any) -> HTTPLimiter | None:
    """Return the default limiter that was made for an app before."""
    return _unused.default_limiters.get(app)


def set_default_limiter(app: Any, http_limiter: HTTPLimiter) -> None:
    """Record the default limiter of an app."""
    mark_used(http_limiter.limiter)
    _unused.default_limiters[app] = http_limiter


def require_none_unused() -> None:
    """Check that each limiter that runs is the one of an app.

    Raises:
        ConfigError: One runs that no app uses.
    """
    for description in _unused.descriptions.values():
        raise ConfigError(
            f"this app has no limiter, and {description} was started without an app: {HOW_TO_USE}"
        )


def warn_of_not_started() -> None:
    """Log a warning if there are limiters that were made and not started."""
    # By references, because another thread may make a limiter now.
    limiters = [each() for each in _unused.not_started.keyrefs()]
    found = {_unused.not_started.get(each) for each in limiters if each is not None}
    # Equal ones once: a process may make one for each of its tests.
    if descriptions := sorted(filter(None, found)):
        _log.warning(
            "limiter.not_used an app gets a limiter from the environment, and the process has "
            "others that were not started: %s; if the app needs one of them, %s",
            ", ".join(descriptions),
            HOW_TO_USE,
        )
