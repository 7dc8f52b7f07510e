"""Limiter of an app: installed by the app's lifespan, found again from an ASGI scope.

The nearest app decides. A mounted app without a `Fleetlimit` of its own uses the one of the app
around it. A mounted app with its own keeps it, and an outer app's limiter never replaces one that
was not started: `find_limiter` raises instead.
"""

import contextlib
import dis
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import FunctionType, ModuleType
from typing import Any, Final

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Host, Mount

from fleetlimit.errors import ConfigError
from fleetlimit.web.http_limiter import HTTPLimiter
from fleetlimit.web.route_table import flatten, get_mounted_app

LIMITER_KEY: Final = "fleetlimit_http_limiter"
"""Attribute of an app, and name in the lifespan state. Not in `app.state`: its `__getattr__` costs
each request several times as much."""
_OWNER_KEY: Final = "fleetlimit_owns_limiter"
_SERVING_KEY: Final = "fleetlimit_serving_limiter"
_PACKAGE: Final = "fleetlimit"

_NOT_STARTED: Final = (
    "the Fleetlimit of this app was not started: run the app's lifespan, in a test with "
    "`with TestClient(app)`; a server does not run the lifespan of a mounted app, so write "
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


class LimiterLifespan:
    """Base class of lifespans that install a limiter on their app.

    It marks an app as one with its own limiter before the lifespan has run.
    """


def install(app: Starlette, http_limiter: HTTPLimiter) -> None:
    """Make a limiter the one of an app and of the mounted apps that have none of their own."""
    setattr(app, _OWNER_KEY, True)
    for each in _apps_sharing_limiter(app):
        setattr(each, LIMITER_KEY, http_limiter)


def uninstall(app: Starlette, http_limiter: HTTPLimiter) -> None:
    """Undo `install`, so that no request reaches a limiter that was closed."""
    for each in _apps_sharing_limiter(app):
        if getattr(each, LIMITER_KEY, None) is http_limiter:
            delattr(each, LIMITER_KEY)
    if hasattr(app, _OWNER_KEY):
        delattr(app, _OWNER_KEY)


def set_serving_limiter(app: Starlette, serving: LimiterLifespan) -> None:
    """Set the limiter of `fleetlimit serve`, which replaces a `Fleetlimit` in the app's lifespan.

    A second limiter would count the replica twice and have other policies.
    """
    setattr(app, _SERVING_KEY, serving)


def get_serving_limiter(app: Any) -> LimiterLifespan | None:
    """Return the limiter of `fleetlimit serve`; None for an app that it does not serve."""
    found: LimiterLifespan | None = getattr(app, _SERVING_KEY, None)
    return found


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
    return hasattr(app, _OWNER_KEY) or _uses_limiter(app.router.lifespan_context)


def has_other_limiter(app: Any, http_limiter: HTTPLimiter) -> bool:
    """Return whether an app was given another limiter than this one."""
    own = getattr(app, LIMITER_KEY, None)
    return own is not None and own is not http_limiter


def _inherited_limiter(scope: Mapping[str, Any], app: Any) -> HTTPLimiter | None:
    if app is not None and _uses_limiter(app.router.lifespan_context):
        raise ConfigError(_NOT_STARTED)
    # The outermost app's lifespan state reaches apps that were mounted after `install`.
    inherited: HTTPLimiter | None = (scope.get("state") or {}).get(LIMITER_KEY)
    if inherited is not None:
        return inherited
    # Starlette leaves the outermost app's router in the scope.
    router = scope.get("router")
    if router is not None and _uses_limiter(router.lifespan_context):
        raise ConfigError(_NOT_STARTED)
    return None


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


def _uses_limiter(lifespan: Any) -> bool:
    """Return whether a lifespan is a `Fleetlimit`, or a function that refers to one.

    An app with more to open writes such a function, and FastAPI's `include_router` makes one of
    the lifespans of app and router. The search does not find a limiter that the function gets from
    a call, from a container, or from an import of a module that is not loaded yet.
    """
    pending, seen = [lifespan], set()
    while pending:
        each = pending.pop()
        if _is_limiter(each):
            return True
        function = inspect.unwrap(each) if callable(each) else None
        if not inspect.isfunction(function) or function in seen:
            continue
        seen.add(function)
        enclosing = list(_enclosing_values(function))
        if any(map(_is_limiter, _named_values(function, enclosing))):
            return True
        pending += enclosing
    return False


def _is_limiter(value: Any) -> bool:
    """Return whether a value is a lifespan that installs a limiter, or the class of one."""
    return isinstance(value, LimiterLifespan) or (
        isinstance(value, type) and issubclass(value, LimiterLifespan)
    )


def _enclosing_values(function: FunctionType) -> Iterator[Any]:
    """Yield the values of the variables that a function uses of the functions around it."""
    for cell in function.__closure__ or ():
        # The cell of a variable without a value raises ValueError.
        with contextlib.suppress(ValueError):
            yield cell.cell_contents


def _named_values(function: FunctionType, enclosing: Sequence[Any]) -> Iterator[Any]:
    """Yield the values that a function names: globals, enclosing ones and modules' attributes."""
    pending = [*enclosing]
    for instruction in dis.get_instructions(function):
        if instruction.opname == "LOAD_GLOBAL":
            pending.append(function.__globals__.get(instruction.argval))
        elif instruction.opname == "IMPORT_NAME":
            pending.append(sys.modules.get(instruction.argval))
    names, seen = function.__code__.co_names, set()
    while pending:
        value = pending.pop()
        yield value
        if isinstance(value, ModuleType) and value not in seen:
            seen.add(value)
            pending += [_get_attribute(value, name) for name in names]


def _get_attribute(module: ModuleType, name: str) -> Any:
    # This package imports its public names on first use. In other modules `getattr` could import
    # or warn, too, for a name that the function uses elsewhere.
    return getattr(module, name, None) if module.__name__ == _PACKAGE else vars(module).get(name)
