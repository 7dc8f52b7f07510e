"""Limiter of an app: installed by the app's lifespan, found again from an ASGI scope.

The nearest app decides. A mounted app without a `Fleetlimit` of its own uses the one of the app
around it. A mounted app with its own keeps it, and an outer app's limiter never replaces one that
was not started: `find_limiter` raises instead.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Final
from weakref import WeakKeyDictionary, WeakSet

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Host, Mount, Router

from fleetlimit.core.subject import Identity
from fleetlimit.errors import ConfigError
from fleetlimit.limiter.limiter import Limiter
from fleetlimit.web.app_routes import get_app_route_table
from fleetlimit.web.code_search import SearchResult, find_reference, is_instance
from fleetlimit.web.http_limiter import HTTPLimiter
from fleetlimit.web.route_scan import flatten, get_mounted_app

LIMITER_KEY: Final = "fleetlimit_http_limiter"
"""Attribute of an app, and name in the lifespan state. Not in `app.state`: its `__getattr__` costs
each request several times as much."""
_log = logging.getLogger("fleetlimit")
_OWNER_KEY: Final = "fleetlimit_owns_limiter"
_SERVING_KEY: Final = "fleetlimit_serving_limiter"

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
_HOW_TO_USE: Final = (
    "write `async with fleetlimit(app)` in the app's lifespan, or FastAPI(lifespan=fleetlimit); an "
    "app that needs a limiter of its own has FastAPI(lifespan=Fleetlimit())"
)
_NOT_STARLETTE: Final = (
    "an app that is not Starlette's needs RateLimitMiddleware(app, http_limiter=...)"
)


class LimiterLifespan:
    """Base class of lifespans that install a limiter on their app.

    It marks an app as one with its own limiter before the lifespan has run.
    """


_serving_limiter: ContextVar[tuple[LimiterLifespan | None, bool]] = ContextVar(
    "fleetlimit_serving_limiter", default=(None, False)
)


class _Unused:
    """The limiters that no app uses, running or not, and the apps that have a default one."""

    def __init__(self) -> None:
        self.not_started: WeakKeyDictionary[Limiter, str] = WeakKeyDictionary()
        self.used: WeakSet[Limiter] = WeakSet()
        self.descriptions: WeakKeyDictionary[Limiter, str] = WeakKeyDictionary()
        self.default_limiters: WeakKeyDictionary[Any, HTTPLimiter] = WeakKeyDictionary()


_unused: Final = _Unused()


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
    if hasattr(app, _OWNER_KEY) and has_other_limiter(app, http_limiter):
        raise ConfigError(
            "this app has a Fleetlimit already: start one Fleetlimit for each app, with all "
            "policies; an APIRouter has no lifespan=Fleetlimit() beside the app's"
        )
    mark_used(http_limiter.limiter)
    setattr(app, _OWNER_KEY, True)
    for each in _apps_sharing_limiter(app):
        setattr(each, LIMITER_KEY, http_limiter)
        if each is not app and not _search_lifespan(each.router).is_complete:
            _warn_of_cut_off("a mounted app uses the limiter of the app around it")


def uninstall(app: Starlette, http_limiter: HTTPLimiter) -> None:
    """Undo `install`, so that no request reaches a limiter that was closed."""
    if has_other_limiter(app, http_limiter):
        return
    for each in _apps_sharing_limiter(app):
        if getattr(each, LIMITER_KEY, None) is http_limiter:
            delattr(each, LIMITER_KEY)
    if hasattr(app, _OWNER_KEY):
        delattr(app, _OWNER_KEY)


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
    # Their next request finds no limiter, and `use_default_limiter` checks again.
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


def use_default_limiter(app: Starlette, open_limiter: Callable[[], HTTPLimiter]) -> HTTPLimiter:
    """Make a default limiter the app's, and return it.

    Args:
        app: App without a limiter.
        open_limiter: Opens the limiter, at the app's first request.

    Raises:
        ConfigError: A limiter runs that no app uses, or the app's routes or its state refer to one.
    """
    _require_none_unused()
    http_limiter = _unused.default_limiters.get(app)
    if http_limiter is None:
        _require_none_in_state(app)
        _require_none_in_routes(app)
        _warn_of_not_started()
        http_limiter = open_limiter()
        mark_used(http_limiter.limiter)
        _unused.default_limiters[app] = http_limiter
    setattr(app, LIMITER_KEY, http_limiter)
    return http_limiter


def _require_none_unused() -> None:
    for description in _unused.descriptions.values():
        raise ConfigError(
            f"this app has no limiter, and {description} was started without an app: {_HOW_TO_USE}"
        )


def _warn_of_not_started() -> None:
    # By references, because another thread may make a limiter now.
    limiters = [each() for each in _unused.not_started.keyrefs()]
    found = {_unused.not_started.get(each) for each in limiters if each is not None}
    # Equal ones once: a process may make one for each of its tests.
    if descriptions := sorted(filter(None, found)):
        _log.warning(
            "limiter.not_used an app gets a limiter from the environment, and the process has "
            "others that were not started: %s; if the app needs one of them, %s",
            ", ".join(descriptions),
            _HOW_TO_USE,
        )


def _require_none_in_state(app: Starlette) -> None:
    # slowapi takes its limiter from there.
    for name, value in vars(app.state).get("_state", {}).items():
        if _is_any_limiter(value):
            raise ConfigError(
                f"this app has no limiter, and app.state.{name} = {_name_of(value)} has no effect: "
                f"{_HOW_TO_USE}"
            )


def _require_none_in_routes(app: Starlette) -> None:
    calls: list[Any] = []
    for route in get_app_route_table(app.router).routes:
        calls += [route.endpoint, *route.active_calls()]
    routes = find_reference(calls, _is_any_limiter)
    if routes.found is not None:
        raise ConfigError(
            "this app has no limiter, and its routes refer to "
            f"{_name_of(routes.found)}: {_HOW_TO_USE}"
        )
    if not (routes.is_complete and _search_lifespan(app.router).is_complete):
        _warn_of_cut_off("an app gets a default limiter")


def _warn_of_cut_off(consequence: str) -> None:
    _log.warning(
        "limiter.search_cut_off %s; its routes or its lifespan hold too many objects to search all "
        "of them for a limiter of its own; if they hold one, %s",
        consequence,
        _HOW_TO_USE,
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


def has_own_limiter(app: Starlette) -> bool:
    """Return whether a mounted app has a limiter of its own, started or not."""
    return hasattr(app, _OWNER_KEY) or _find_in_lifespan(app.router) is not None


def find_own_limiter(app: Starlette) -> Any:
    """Return the `Fleetlimit` in an app's lifespan, or the class of one; None without."""
    return _find_in_lifespan(app.router)


def has_limiter(app: Any) -> bool:
    """Return whether a limiter is installed on an app."""
    return hasattr(app, LIMITER_KEY)


def has_other_limiter(app: Any, http_limiter: HTTPLimiter) -> bool:
    """Return whether an app was given another limiter than this one."""
    own = getattr(app, LIMITER_KEY, None)
    return own is not None and own is not http_limiter


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
    found = _find_in_lifespan(router)
    if found is not None:
        raise ConfigError(f"the {_name_of(found)} of this app was not started: {_HOW_TO_START}")


def find_in_lifespan(app: Starlette) -> Any:
    """Return the `Fleetlimit` in an app's lifespan, or the class of one; None without."""
    return _find_in_lifespan(app.router)


def _apps_sharing_limiter(app: Starlette) -> Iterator[Starlette]:
    yield app
    for mounted in mounted_apps(app.routes):
        if not has_own_limiter(mounted):
            yield from _apps_sharing_limiter(mounted)


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


def _find_in_lifespan(router: Router) -> Any:
    """Return the `Fleetlimit` in an app's lifespan, or the class of one; None without."""
    return _search_lifespan(router).found


def _search_lifespan(router: Router) -> SearchResult:
    """Search an app's lifespan for a `Fleetlimit`, or the class of one.

    The lifespan may be a `Fleetlimit`, or code of the app that refers to one. FastAPI's
    `include_router` makes a function of the lifespans of app and router.
    """
    # FastAPI has handlers in place of a lifespan, too, and Starlette no longer has them.
    return find_reference(
        [router.lifespan_context, *getattr(router, "on_startup", ())], _is_lifespan
    )


def _is_lifespan(value: Any) -> bool:
    """Return whether a value is a lifespan that installs a limiter, or the class of one."""
    return is_instance(value, LimiterLifespan) or (
        is_instance(value, type) and issubclass(value, LimiterLifespan)
    )


def _is_any_limiter(value: Any) -> bool:
    is_class = value is Limiter or value is HTTPLimiter
    return is_class or is_instance(value, (Limiter, HTTPLimiter)) or _is_lifespan(value)


def _name_of(found: Any) -> str:
    return found.__name__ if isinstance(found, type) else repr(found)
