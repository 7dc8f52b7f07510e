"""Limiter of an app: installed by the app's lifespan, found again from an ASGI scope.

The nearest app decides. A mounted app without a `Fleetlimit` of its own uses the one of the app
around it. A mounted app with its own keeps it, and an outer app's limiter never replaces one that
was not started: `find_limiter` raises instead.
"""

from collections.abc import Mapping
from typing import Any, Final

from starlette.applications import Starlette
from starlette.routing import Router

from fleetlimit.core.subject import Identity
from fleetlimit.errors import ConfigError
from fleetlimit.web.app_limiter import (
    LIMITER_KEY,
    OWNER_KEY,
    apps_sharing_limiter,
    has_other_limiter,
    limiter_name,
    search_lifespan,
    warn_of_cut_off,
)
from fleetlimit.web.http_limiter import HTTPLimiter
from fleetlimit.web.unused_limiters import mark_used

_HOW_TO_START: Final = (
    "run the app's lifespan, in a test with `with TestClient(app)`; in your own lifespan write "
    "`async with fleetlimit(app)`; a server does not run the lifespan of a mounted app, so write "
    "`async with fleetlimit(mounted_app)` in the lifespan of the app around it"
)
_NOT_WIRED: Final = (
    "RateLimitMiddleware has no limiter: write FastAPI(lifespan=Fleetlimit(policies=...)), or "
    "`async with Fleetlimit(policies=...)(app)` in the app's own lifespan, and run that lifespan, "
    "in a test with `with TestClient(app)`"
)
_NOT_STARLETTE: Final = (
    "an app that is not Starlette's needs RateLimitMiddleware(app, http_limiter=...)"
)


class NotStarted:
    """Identifier of a limiter that was not started: each check raises `ConfigError`.

    A middleware that was given the limiter as an argument would otherwise apply no policies.

    Args:
        limiter: Description of the limiter.
    """

    def __init__(self, limiter: str) -> None:
        self._limiter = limiter

    @property
    def known_tiers(self) -> None:
        """None: no caller has been identified."""
        return None

    async def identify(self, scope: Mapping[str, Any]) -> Identity:  # noqa: ARG002 - as in Identifier
        """Raise an error with the way to start the limiter.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(f"{self._limiter} was not started: {_HOW_TO_START}")


def install(app: Starlette, http_limiter: HTTPLimiter) -> None:
    """Make a limiter the one of an app and of the mounted apps that have none of their own.

    Raises:
        ConfigError: The app has another limiter of its own, whose policies would no longer apply.
    """
    if hasattr(app, OWNER_KEY) and has_other_limiter(app, http_limiter):
        raise ConfigError(
            "this app has a Fleetlimit already: start one Fleetlimit for each app, with all "
            "policies; an APIRouter has no lifespan=Fleetlimit() beside the app's"
        )
    mark_used(http_limiter.limiter)
    setattr(app, OWNER_KEY, True)
    for each in apps_sharing_limiter(app):
        setattr(each, LIMITER_KEY, http_limiter)
        if each is not app and not search_lifespan(each.router).is_complete:
            warn_of_cut_off("a mounted app uses the limiter of the app around it")


def uninstall(app: Starlette, http_limiter: HTTPLimiter) -> None:
    """Undo `install`, so that no request reaches a limiter that was closed."""
    if has_other_limiter(app, http_limiter):
        return
    for each in apps_sharing_limiter(app):
        if getattr(each, LIMITER_KEY, None) is http_limiter:
            delattr(each, LIMITER_KEY)
    if hasattr(app, OWNER_KEY):
        delattr(app, OWNER_KEY)


def find_limiter(scope: Mapping[str, Any]) -> HTTPLimiter | None:
    """Return the limiter of the nearest app; None where no app of the request sets one up.

    Raises:
        ConfigError: The app has a `Fleetlimit` that was not started.
    """
    app = scope.get("app")
    found: HTTPLimiter | None = getattr(app, LIMITER_KEY, None)
    return found if found is not None else _inherited_limiter(scope, app)


def get_limiter(scope: Mapping[str, Any]) -> HTTPLimiter:
    """Return the limiter of the nearest app.

    Raises:
        ConfigError: There is none; the message says how to set one up.
    """
    found = find_limiter(scope)
    if found is None:
        raise ConfigError(_NOT_WIRED if scope.get("app") is not None else _NOT_STARLETTE)
    return found


def _inherited_limiter(scope: Mapping[str, Any], app: Any) -> HTTPLimiter | None:
    if app is not None:
        _require_none_to_start(app.router)
    # The outermost app's lifespan state reaches apps that were mounted after `install`.
    inherited: HTTPLimiter | None = (scope.get("state") or {}).get(LIMITER_KEY)
    if inherited is not None:
        return inherited
    # Starlette leaves the outermost app's router in the scope.
    if (router := scope.get("router")) is not None:
        _require_none_to_start(router)
    return None


def _require_none_to_start(router: Router) -> None:
    """Check that the lifespan of an app without a limiter does not start one.

    Raises:
        ConfigError: It does, and has not run.
    """
    found = search_lifespan(router).found
    if found is not None:
        raise ConfigError(f"the {limiter_name(found)} of this app was not started: {_HOW_TO_START}")
