"""Warnings at start: limits or metrics that are not shared, and handlers that do not run."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from fleetlimit.bootstrap.settings import Settings, reveal
from fleetlimit.limiter.ports import Store

_OPTION = re.compile(r"(?<!\S)(?:-w ?|--workers[ =])(\d+)(?!\S)")


def warn_of_missing_settings(log: Any, settings: Settings, store: Store) -> None:
    """Log a warning about limits per process, hashes without a secret, and shared names."""
    if not store.shared:
        log.warning(
            "store.not_shared",
            detail="limits hold within this process only; set FLEETLIMIT_STORE=redis://... or "
            "Fleetlimit(store=...) to share them",
        )
    elif reveal(settings.key_secret) is None:
        log.warning(
            "keys.not_secret",
            detail="identities are hashed without a secret, so they can be guessed; set "
            "FLEETLIMIT_KEY_SECRET to the same value for all replicas",
        )
    if store.shared and settings.replica and worker_processes() > 1:
        log.warning(
            "replicas.one_name",
            replica=settings.replica,
            detail="the worker processes have the name of FLEETLIMIT_REPLICA and count as one "
            "replica, so that each admits the share of all while the store is unavailable; "
            "leave it out",
        )


def warn_of_worker_processes(log: Any) -> None:
    """Log a warning if the metrics are those of one worker process of several."""
    workers = worker_processes()
    if workers > 1:
        log.warning(
            "metrics.per_process",
            workers=workers,
            detail="each worker process has metrics of its own, and a scrape of /metrics in "
            "the app reaches any one of them: run one process per pod and scale by replicas",
        )


def warn_of_ignored_handlers(log: Any, app: Any) -> None:
    """Log a warning if an app with a lifespan has handlers of its start and its end.

    Args:
        log: Structured logger.
        app: The app. `fastapi.routing.APIRouter` runs the handlers in its default lifespan only.
    """
    router = getattr(app, "router", None)
    handlers = [*getattr(router, "on_startup", ()), *getattr(router, "on_shutdown", ())]
    if handlers:
        log.warning(
            "handlers.ignored",
            handlers=[getattr(each, "__name__", repr(each)) for each in handlers],
            detail="FastAPI does not run on_event, on_startup and on_shutdown of an app that has a "
            "lifespan: move this code into a lifespan, and write `async with fleetlimit(app): "
            "yield` there",
        )


def worker_processes(
    arguments: Sequence[str] = sys.argv, variables: Mapping[str, str] = os.environ
) -> int:
    """Return the number that the command line or the environment sets, or 1.

    The worker processes of gunicorn and uvicorn have the command line of their parent.

    Args:
        arguments: Command line, in which gunicorn and uvicorn accept `--workers`.
        variables: Environment, in which both read `WEB_CONCURRENCY`.
    """
    command = " ".join([variables.get("GUNICORN_CMD_ARGS", ""), *arguments])
    options = _OPTION.findall(command)
    text = options[-1] if options else variables.get("WEB_CONCURRENCY", "")
    return int(text) if text.isdecimal() else 1
