"""Limiter from the environment, of an app that uses the dependencies alone."""

import asyncio
from contextvars import Context
from typing import Final

from starlette.applications import Starlette

from fleetlimit.bootstrap.fleetlimit import Fleetlimit
from fleetlimit.limiter.tasks import TaskSet
from fleetlimit.web.app_routes import get_app_route_table
from fleetlimit.web.http_limiter import HTTPLimiter

_tasks: Final = TaskSet()


def open_limiter_from_env(app: Starlette) -> HTTPLimiter:
    """Open a limiter from the environment, for an app that never mentions `Fleetlimit`.

    A shared store is closed when the event loop ends. Checks made before the background work has
    connected to the store connect to it themselves.

    Args:
        app: The app, whose limits are checked and logged as those of any other app are at start.

    Raises:
        ConfigError: A setting, the policy file or a limit of the app is wrong.
    """
    fleetlimit = Fleetlimit()
    fleetlimit.activate_policies()
    # Policies with a match apply with the middleware only, which uses no default limiter.
    fleetlimit.route_reporter.log_routes(get_app_route_table(app.router), match_policies=False)
    fleetlimit.document(app, match_policies=False)
    fleetlimit.warn_of_missing_settings()
    # In an empty context: the limiter outlives the request that opens it.
    _tasks.spawn(_keep_open(fleetlimit), context=Context())
    return fleetlimit.http_limiter


async def _keep_open(fleetlimit: Fleetlimit) -> None:
    task = asyncio.current_task()
    try:
        await fleetlimit.start_background_work()
        # Before Python 3.12 `asyncio.wait_for`, which the driver uses, may swallow a cancellation.
        if task is not None and not task.cancelling():
            await asyncio.Event().wait()
    finally:
        # A test client runs each request in its own event loop: keep the counts in memory.
        if fleetlimit.limiter.store.shared:
            await fleetlimit.aclose()
