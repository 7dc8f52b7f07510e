"""Default limiter of an app that uses the dependencies alone and never mentions `Fleetlimit`."""

from typing import Any

from starlette.applications import Starlette

from fleetlimit.errors import ConfigError
from fleetlimit.web.app_limiter import (
    HOW_TO_USE,
    LIMITER_KEY,
    is_limiter,
    limiter_name,
    search_lifespan,
    warn_of_cut_off,
)
from fleetlimit.web.app_routes import get_app_route_table
from fleetlimit.web.code_search import find_reference
from fleetlimit.web.http_limiter import HTTPLimiter
from fleetlimit.web.unused_limiters import (
    get_default_limiter,
    require_none_unused,
    set_default_limiter,
    warn_of_not_started,
)


def open_default_limiter(app: Any) -> HTTPLimiter:
    """Open a limiter from the environment at the app's first request, and make it the app's.

    Args:
        app: App without a limiter.

    Raises:
        ConfigError: A setting is wrong, and the message names its variable; or a limiter runs that
            no app uses, or the app's routes or its state refer to one; or the app has limits that
            cannot work together.
    """
    require_none_unused()
    http_limiter = get_default_limiter(app)
    if http_limiter is None:
        _require_none_in_state(app)
        _require_none_in_routes(app)
        warn_of_not_started()
        # The only import from `web` to the composition root; pyproject.toml lists it as an
        # exception. In such an app FastAPI calls the dependency, and no code that knows stores and
        # settings has run before. A hook that the root registers at import would be hidden global
        # state.
        from fleetlimit.bootstrap import default_limiter  # noqa: PLC0415

        http_limiter = default_limiter.open_limiter_from_env(app)
        set_default_limiter(app, http_limiter)
    setattr(app, LIMITER_KEY, http_limiter)
    return http_limiter


def _require_none_in_state(app: Starlette) -> None:
    # slowapi takes its limiter from there.
    for name, value in vars(app.state).get("_state", {}).items():
        if is_limiter(value):
            raise ConfigError(
                f"this app has no limiter, and app.state.{name} = {limiter_name(value)} has no "
                f"effect: {HOW_TO_USE}"
            )


def _require_none_in_routes(app: Starlette) -> None:
    calls: list[Any] = []
    for route in get_app_route_table(app.router).routes:
        calls += [route.endpoint, *route.active_calls()]
    routes = find_reference(calls, is_limiter)
    if routes.found is not None:
        raise ConfigError(
            "this app has no limiter, and its routes refer to "
            f"{limiter_name(routes.found)}: {HOW_TO_USE}"
        )
    if not (routes.is_complete and search_lifespan(app.router).is_complete):
        warn_of_cut_off("an app gets a default limiter")
