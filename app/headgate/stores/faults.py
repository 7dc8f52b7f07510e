"""The driver's errors, said in Headgate's words."""

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
