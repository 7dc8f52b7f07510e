"""Default limiter of an app that uses the dependencies alone and never mentions `Fleetlimit`."""

from typing import Any

from fleetlimit.web.http_limiter import HTTPLimiter
from fleetlimit.web.wiring import use_default_limiter


def open_default_limiter(app: Any) -> HTTPLimiter:
    """Open a limiter from the environment and make it the app's.

    Raises:
        ConfigError: A setting is wrong, and the message names its variable; or the app has a
            limiter that was not made its own.
    """
    # The only import from `web` to the composition root; pyproject.toml lists it as an exception.
    # In such an app FastAPI calls the dependency, and no code that knows stores and settings has
    # run before. A hook that the root registers at import would be hidden global state.
    from fleetlimit.bootstrap import default_limiter  # noqa: PLC0415

    return use_default_limiter(app, default_limiter.open_limiter_from_env)
