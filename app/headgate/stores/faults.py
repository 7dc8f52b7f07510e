"""The driver's errors, said in Headgate's words."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from redis import exceptions as driver

from headgate.core.errors import BucketCorrupt, StoreError, StoreRefused, StoreUnavailable

_KINDS: tuple[tuple[type[Exception], type[StoreError], str], ...] = (
    # The first that fits counts: the special ones stand before what they derive from.
    (driver.AuthenticationError, StoreRefused, "authentication"),
    (driver.AuthorizationError, StoreRefused, "authentication"),
    (driver.BusyLoadingError, StoreUnavailable, "loading"),
    (driver.MaxConnectionsError, StoreUnavailable, "connection"),
    (driver.ConnectionError, StoreUnavailable, "connection"),
    (driver.TimeoutError, StoreUnavailable, "timeout"),
    (driver.ReadOnlyError, StoreRefused, "read_only"),
    (driver.OutOfMemoryError, StoreRefused, "out_of_memory"),
    (driver.NoPermissionError, StoreRefused, "permission"),
    (driver.ClusterDownError, StoreUnavailable, "cluster_down"),
    (driver.SlotNotCoveredError, StoreUnavailable, "cluster_down"),
    (driver.AskError, StoreUnavailable, "cluster_moving"),
    (driver.TryAgainError, StoreUnavailable, "cluster_moving"),
    (driver.RedisClusterException, StoreUnavailable, "cluster_down"),
    (TimeoutError, StoreUnavailable, "timeout"),
    (OSError, StoreUnavailable, "connection"),
)


def translate(error: Exception) -> StoreError:
    """Return the error that says what the driver's error means to a limiter."""
    if isinstance(error, StoreError):
        return error
    for driver_error, ours, kind in _KINDS:
        if isinstance(error, driver_error):
            return ours(f"{kind}: {error}", kind=kind)
    text = str(error)
    for marker, ours, kind in (
        # Errors that come from within a script carry the server's word, not the driver's class.
        ("WRONGTYPE", BucketCorrupt, "wrong_type"),
        ("READONLY", StoreRefused, "read_only"),
        ("OOM", StoreRefused, "out_of_memory"),
        ("NOPERM", StoreRefused, "permission"),
        ("MISCONF", StoreRefused, "misconfigured"),
        ("NOREPLICAS", StoreRefused, "no_replicas"),
        ("MASTERDOWN", StoreUnavailable, "cluster_down"),
        ("BUSY", StoreUnavailable, "busy"),
    ):
        if marker in text:
            return ours(f"{kind}: {text}", kind=kind)
    return StoreRefused(f"unexpected answer: {text}", kind="response")


@contextlib.asynccontextmanager
async def bounded(seconds: float) -> AsyncIterator[None]:
    """Give the driver this long, and raise whatever it raises as a StoreError."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task and task.cancelling():
            raise
        # Under a tracer, CPython 3.11 may leave the cancellation that a timeout is made of in place
        # of the timeout. The caller, whom nobody cancelled, hears the truth.
        raise translate(TimeoutError(f"no answer within {seconds:g} s")) from error
    except Exception as error:
        raise translate(error) from error
