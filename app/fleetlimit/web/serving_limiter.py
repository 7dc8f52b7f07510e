"""Limiter of `fleetlimit serve`, which replaces the one in an app's lifespan."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, Final

from starlette.applications import Starlette

from fleetlimit.errors import ConfigError
from fleetlimit.web.app_limiter import LimiterLifespan

_SERVING_KEY: Final = "fleetlimit_serving_limiter"
_serving_limiter: ContextVar[tuple[LimiterLifespan | None, bool]] = ContextVar(
    "fleetlimit_serving_limiter", default=(None, False)
)


def set_serving_limiter(app: Starlette, serving: LimiterLifespan) -> None:
    """Set the limiter of `fleetlimit serve`, which replaces a `Fleetlimit` in the app's lifespan.

    A second limiter would count the replica twice and have other policies.
    """
    setattr(app, _SERVING_KEY, serving)


@contextlib.contextmanager
def serving(limiter: LimiterLifespan, *, opaque: bool) -> Iterator[None]:
    """Serve an app with the limiter of `fleetlimit serve`, in all tasks that start in here.

    Args:
        limiter: The limiter.
        opaque: Whether no app of Starlette's can be seen, as in a function around one. The limiter
            is then that of each lifespan that runs.
    """
    token = _serving_limiter.set((limiter, opaque))
    try:
        yield
    finally:
        _serving_limiter.reset(token)


def get_serving_limiter(app: Any) -> LimiterLifespan | None:
    """Return the limiter of `fleetlimit serve`; None for an app that it does not serve."""
    found: LimiterLifespan | None = getattr(app, _SERVING_KEY, None)
    limiter, opaque = _serving_limiter.get()
    return found or (limiter if opaque else None)


def require_not_served(description: str) -> None:
    """Check that `fleetlimit serve` does not run, for a limiter that is started without an app.

    Raises:
        ConfigError: It does, and its own limiter would be the only one that requests reach.
    """
    limiter, _ = _serving_limiter.get()
    if limiter is not None:
        raise ConfigError(
            f"{description} was started without an app, but `fleetlimit serve` has a limiter: "
            "write `async with fleetlimit(app)` in the app's lifespan, or serve it with uvicorn"
        )
