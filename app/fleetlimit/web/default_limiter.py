"""Default limiter of an app that uses the dependencies alone and never mentions `Fleetlimit`."""

from typing import Any

from fleetlimit.web.http_limiter import HTTPLimiter
from fleetlimit.web.wiring import LIMITER_KEY


def open_default_limiter(app: Any) -> HTTPLimiter:
    """Open a limiter from the environment and make it the app's.

    Raises:
        ConfigError: A setting is wrong; the message names its variable.
    """
    # The only import from `web` to the composition root; pyproject.toml lists it as an exception.
    # In such an app FastAPI calls the dependency, and no code that knows stores and settings has
    # run before. A hook that the root registers at import would be hidden global state.
    from fleetlimit.bootstrap.fleetlimit import open_limiter_from_env  # noqa: PLC0415

    http_limiter = open_limiter_from_env()
    setattr(app, LIMITER_KEY, http_limiter)
    return http_limiter
