"""Middlewares of an app that matter to its limiter, with warnings about their effect."""

from itertools import chain
from types import FunctionType
from typing import Any, TypeGuard

from starlette.applications import Starlette

from fleetlimit.bootstrap.rewriting_middleware import find_rewriting_middlewares
from fleetlimit.telemetry import names
from fleetlimit.web.app_limiter import mounted_apps
from fleetlimit.web.code_search import named_values
from fleetlimit.web.exceptions import handles_rejections
from fleetlimit.web.middleware import WRAPPED_KEY, RateLimitMiddleware
from fleetlimit.web.rejections import RejectionSender


def has_middleware(app: Starlette) -> bool:
    """Return whether an app has the middleware, which applies policies by their match."""
    added: list[Any] = [each.cls for each in app.user_middleware]
    # A function that makes a middleware names its class.
    named = chain.from_iterable(map(named_values, filter(_is_function, added)))
    return hasattr(app, WRAPPED_KEY) or any(
        isinstance(each, type) and issubclass(each, RateLimitMiddleware)
        for each in (*added, *named)
    )


def _is_function(value: Any) -> TypeGuard[FunctionType]:
    return isinstance(value, FunctionType)


def answers_rejections(app: Starlette, sender: RejectionSender) -> bool:
    """Return whether code of an app may answer rejections.

    Args:
        app: The app.
        sender: What its limiter has for rejections; the app's middleware may have more.
    """
    functions = [each.kwargs.get("on_rejected") for each in app.user_middleware]
    return sender.is_needed or any(functions) or uses_exception_handlers(app, sender)


def uses_exception_handlers(app: Starlette, sender: RejectionSender) -> bool:
    """Return whether exception handlers of an app answer; arguments as `answers_rejections`."""
    flags = [each.kwargs.get("use_exception_handlers") for each in app.user_middleware]
    return sender.use_exception_handlers or any(flags)


def warn_of_middlewares(
    app: Starlette, log: Any, sender: RejectionSender, *, match_policies: bool
) -> None:
    """Warn of exception handlers that are missing, and of middlewares that rewrite requests.

    Args:
        app: The app.
        log: Structured logger.
        sender: What the limiter of the app has for rejections.
        match_policies: Whether policies apply by their match, which a middleware may change.
    """
    if uses_exception_handlers(app, sender) and not any(
        map(handles_rejections, [app, *mounted_apps(app.routes)])
    ):
        log.warning(
            names.LOG_NO_EXCEPTION_HANDLER,
            detail="use_exception_handlers has no effect: the app has no handler for "
            "HTTPException, RateLimitExceeded or 429; add one with app.exception_handler",
        )
    if match_policies:
        for each in find_rewriting_middlewares(app):
            log.warning(
                names.LOG_MIDDLEWARE_REWRITES,
                middleware=each.name,
                changes=list(each.changes),
                detail="policies are selected before this middleware runs: call "
                "app.add_middleware(RateLimitMiddleware) before app.add_middleware of this "
                "middleware",
            )
