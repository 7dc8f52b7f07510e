"""Limiter of an app's own: installed on it, or in its lifespan and perhaps not started.

The lifespan of an app that did not start yet is searched for a `Fleetlimit`, because another
limiter must not stand in for it in silence.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import Any, Final

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Host, Mount, Router

from fleetlimit.limiter.limiter import Limiter
from fleetlimit.web.code_search import SearchResult, find_reference, is_instance
from fleetlimit.web.http_limiter import HTTPLimiter
from fleetlimit.web.route_scan import flatten, get_mounted_app

LIMITER_KEY: Final = "fleetlimit_http_limiter"
"""Attribute of an app, and name in the lifespan state. Not in `app.state`: its `__getattr__` costs
each request several times as much."""
OWNER_KEY: Final = "fleetlimit_owns_limiter"
"""Attribute of an app whose limiter was installed on it, and not on an app around it."""
HOW_TO_USE: Final = (
    "write `async with fleetlimit(app)` in the app's lifespan, or FastAPI(lifespan=fleetlimit); an "
    "app that needs a limiter of its own has FastAPI(lifespan=Fleetlimit())"
)
_log = logging.getLogger("fleetlimit")


class LimiterLifespan:
    """Base class of lifespans that install a limiter on their app.

    It marks an app as one with its own limiter before the lifespan has run.
    """


def has_limiter(app: Any) -> bool:
    """Return whether a limiter is installed on an app."""
    return hasattr(app, LIMITER_KEY)


def has_other_limiter(app: Any, http_limiter: HTTPLimiter) -> bool:
    """Return whether an app was given another limiter than this one."""
    own = getattr(app, LIMITER_KEY, None)
    return own is not None and own is not http_limiter


def has_own_limiter(app: Starlette) -> bool:
    """Return whether a mounted app has a limiter of its own, started or not."""
    return hasattr(app, OWNER_KEY) or find_own_limiter(app) is not None


def find_own_limiter(app: Starlette) -> Any:
    """Return the `Fleetlimit` in an app's lifespan, or the class of one; None without."""
    return search_lifespan(app.router).found


def search_lifespan(router: Router) -> SearchResult:
    """Search an app's lifespan for a `Fleetlimit`, or the class of one.

    The lifespan may be a `Fleetlimit`, or code of the app that refers to one. FastAPI's
    `include_router` makes a function of the lifespans of app and router.
    """
    # FastAPI has handlers in place of a lifespan, too, and Starlette no longer has them.
    return find_reference(
        [router.lifespan_context, *getattr(router, "on_startup", ())], _is_lifespan
    )


def apps_sharing_limiter(app: Starlette) -> Iterator[Starlette]:
    """Yield an app, and those mounted within it that have no limiter of their own."""
    yield app
    for mounted in mounted_apps(app.routes):
        if not has_own_limiter(mounted):
            yield from apps_sharing_limiter(mounted)


def mounted_apps(routes: Sequence[BaseRoute]) -> Iterator[Starlette]:
    """Yield the apps mounted in these routes, but not those mounted within them."""
    for route in flatten(routes):
        if not isinstance(getattr(route, "original_route", route), Mount | Host):
            continue
        app = get_mounted_app(route)
        if isinstance(app, Starlette):
            yield app
        elif app is not None:
            yield from mounted_apps(app.routes or ())


def is_limiter(value: Any) -> bool:
    """Return whether a value is a limiter of any kind, started or not, or the class of one."""
    is_class = value is Limiter or value is HTTPLimiter
    return is_class or is_instance(value, (Limiter, HTTPLimiter)) or _is_lifespan(value)


def _is_lifespan(value: Any) -> bool:
    """Return whether a value is a lifespan that installs a limiter, or the class of one."""
    return is_instance(value, LimiterLifespan) or (
        is_instance(value, type) and issubclass(value, LimiterLifespan)
    )


def limiter_name(found: Any) -> str:
    """Return the name of a limiter that a search found, for an error."""
    return found.__name__ if isinstance(found, type) else repr(found)


def warn_of_cut_off(consequence: str) -> None:
    """Log a warning that a search for a limiter ended early.

    Args:
        consequence: What happens because no limiter was found.
    """
    _log.warning(
        "limiter.search_cut_off %s; its routes or its lifespan hold too many objects to search all "
        "of them for a limiter of its own; if they hold one, %s",
        consequence,
        HOW_TO_USE,
    )
