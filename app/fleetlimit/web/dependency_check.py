"""Check of a request by its dependencies: once for all limits of a route, with their headers."""

from collections.abc import Sequence
from functools import partial
from typing import Final
from weakref import ref

from fastapi import Response
from starlette.requests import HTTPConnection
from starlette.types import Scope

from fleetlimit.errors import ConfigError
from fleetlimit.limiter.reservation import Reservation
from fleetlimit.web.app_routes import match_route
from fleetlimit.web.default_limiter import open_default_limiter
from fleetlimit.web.exceptions import make_exception
from fleetlimit.web.http_limiter import HTTPLimiter
from fleetlimit.web.ratelimit_headers import merge_headers
from fleetlimit.web.request_limits import (
    RequestLimits,
    get_request_limits,
    raw_headers_of,
    start_request_limits,
)
from fleetlimit.web.route_policies import RateLimitDependency
from fleetlimit.web.wiring import find_limiter

_EXIT_STACK_KEY: Final = "fastapi_inner_astack"
"""Name in the scope under which FastAPI keeps the exit stack of the request's dependencies."""


async def check(
    dependency: RateLimitDependency, connection: HTTPConnection, response: Response
) -> tuple[RequestLimits, Reservation]:
    """Check the request once for all limits of its route, and return the dependency's part."""
    scope = connection.scope
    request_limits = get_request_limits(scope)
    if request_limits is None or request_limits.app is not scope["app"]:
        request_limits = enter_app(connection, request_limits)
    name = dependency.resolve_policy(request_limits.http_limiter).name
    calls = request_limits.dependency_calls
    if name in calls:
        _require_call_by_framework(dependency, name, request_limits)
    calls.append(name)
    if name not in request_limits.reservation_by_policy:
        # All limits of the route are checked together, so a rejection by one spends none.
        dependencies = request_limits.route.active_rate_limits()
        if dependency not in dependencies:
            # The endpoint called it, and FastAPI does not know of it.
            dependencies = (*dependencies, dependency)
        await _check_together(request_limits, connection, response, dependencies)
    return request_limits, request_limits.reservation_by_policy[name].for_policy(name)


def _require_call_by_framework(
    dependency: RateLimitDependency, name: str, request_limits: RequestLimits
) -> None:
    """Check that a further call of a limit of one policy is one that FastAPI makes.

    Raises:
        ConfigError: The endpoint calls the limit repeatedly, as for each message of a WebSocket.
    """
    route, http_limiter = request_limits.route, request_limits.http_limiter
    declared = sum(
        isinstance(each, RateLimitDependency) and each.resolve_policy(http_limiter).name == name
        for each in route.active_calls()
    )
    if request_limits.dependency_calls.count(name) >= max(declared, 1):
        raise ConfigError(
            f"{dependency!r} counts once for each request or WebSocket, and was called again: add "
            "the parameter `caller: DepCaller`, and write `await caller.check(...)` for each "
            "message or step"
        )


def enter_app(connection: HTTPConnection, outer: RequestLimits | None) -> RequestLimits:
    """Return the request's limits under the app that it reached, a mounted one perhaps.

    Args:
        connection: The request or handshake.
        outer: Limits of the request under the app around it, if there are any.

    Raises:
        ConfigError: The app has a `Fleetlimit` that was not started.
    """
    scope = connection.scope
    http_limiter = find_limiter(scope)
    if outer is not None and (http_limiter is None or http_limiter is outer.http_limiter):
        return outer
    if http_limiter is None:
        http_limiter = open_default_limiter(scope["app"])
    return start_request_limits(scope, http_limiter, match_route(scope))


async def _check_together(
    request_limits: RequestLimits,
    connection: HTTPConnection,
    response: Response,
    dependencies: Sequence[RateLimitDependency],
) -> None:
    if request_limits.reservation_by_policy:
        dependencies = [
            each
            for each in dependencies
            if each.resolve_policy(request_limits.http_limiter).name
            not in request_limits.reservation_by_policy
        ]
    had_leases = request_limits.has_leases
    rejection = await request_limits.check(connection.scope, dependencies)
    if request_limits.has_leases and not had_leases:
        _release_at_end(request_limits, connection.scope)
    if rejection is not None:
        await release_leases(request_limits)
        context = request_limits.rejection_context(connection.scope)
        raise make_exception(rejection, request_limits.decision, connection, context)
    if not request_limits.headers_sent_by_middleware:
        # Weak references: in a cycle, a dropped reservation would not release its leases at once.
        reservations = [ref(each) for each in request_limits.reservations]
        write = partial(write_headers, response, request_limits.http_limiter, reservations)
        write()
        # An endpoint may correct the cost before FastAPI sends the response.
        request_limits.reservations[-1].on_corrected = write


def write_headers(
    response: Response, http_limiter: HTTPLimiter, reservations: Sequence[ref[Reservation]]
) -> None:
    """Set the headers that FastAPI copies to the final response.

    They replace the headers that an earlier limit of this route has set.
    """
    held = [each for reference in reservations if (each := reference()) is not None]
    response.raw_headers[:] = merge_headers(
        response.raw_headers, raw_headers_of(http_limiter, held)
    )


def _release_at_end(request_limits: RequestLimits, scope: Scope) -> None:
    """Release the leases when FastAPI closes the request, whatever fails until then.

    The limit that runs the check may be another one than the limit that holds the leases, and a
    dependency between the two may fail.
    """
    # FastAPI before 0.118 has no such entry: there the leases are released when the failed
    # request's reservation is dropped.
    stack = scope.get(_EXIT_STACK_KEY)
    if stack is not None and not request_limits.headers_sent_by_middleware:
        stack.push_async_callback(request_limits.release_leases)


async def release_leases(request_limits: RequestLimits) -> None:
    """Release the leases of a request, unless the middleware holds them until the response ends."""
    if request_limits.has_leases and not request_limits.headers_sent_by_middleware:
        await request_limits.release_leases()
