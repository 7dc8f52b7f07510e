"""Translation of redis-py's errors to `StoreError`."""

from typing import Final

from redis import exceptions as driver

from fleetlimit.errors import BucketCorrupt, StoreError, StoreRejected, StoreUnavailable
from fleetlimit.stores.redis.calendar_windows import OUTSIDE_KIND


class CredentialError(driver.AuthenticationError):
    """No credentials for a new connection. redis-py closes the connection."""


_BY_TYPE: tuple[tuple[type[Exception], type[StoreError], str], ...] = (
    # The first match counts, so subclasses stand before their base classes.
    (driver.AuthenticationError, StoreRejected, "authentication"),
    (driver.AuthorizationError, StoreRejected, "authentication"),
    (driver.BusyLoadingError, StoreUnavailable, "loading"),
    (driver.MaxConnectionsError, StoreUnavailable, "connection"),
    (driver.ConnectionError, StoreUnavailable, "connection"),
    (driver.TimeoutError, StoreUnavailable, "timeout"),
    (driver.ReadOnlyError, StoreRejected, "read_only"),
    (driver.OutOfMemoryError, StoreRejected, "out_of_memory"),
    (driver.NoPermissionError, StoreRejected, "permission"),
    (driver.MasterDownError, StoreUnavailable, "stale_replica"),
    (driver.ClusterDownError, StoreUnavailable, "cluster_down"),
    (driver.SlotNotCoveredError, StoreUnavailable, "cluster_down"),
    # Of a Cluster's client, redis-py follows the redirection.
    (driver.MovedError, StoreRejected, "cluster_mode"),
    (driver.ClusterCrossSlotError, StoreRejected, "cluster_mode"),
    (driver.AskError, StoreUnavailable, "cluster_moving"),
    (driver.TryAgainError, StoreUnavailable, "cluster_moving"),
    (driver.RedisClusterException, StoreUnavailable, "cluster_down"),
    (TimeoutError, StoreUnavailable, "timeout"),
    (OSError, StoreUnavailable, "connection"),
)
_MARKERS_BEFORE_TYPE: tuple[tuple[str, type[StoreError], str], ...] = (
    # redis-py has no class for the first, and behind Sentinel only the class name of the second.
    ("CERTIFICATE_VERIFY_FAILED", StoreRejected, "certificate"),
    ("AuthenticationError", StoreRejected, "authentication"),
)
_MARKERS_AFTER_TYPE: tuple[tuple[str, type[StoreError], str], ...] = (
    # Errors from within a script have the server's code in their text, not a class of redis-py.
    ("WRONGTYPE", BucketCorrupt, "wrong_type"),
    ("CALENDAR", StoreRejected, OUTSIDE_KIND),
    ("READONLY", StoreRejected, "read_only"),
    ("OOM", StoreRejected, "out_of_memory"),
    ("NOPERM", StoreRejected, "permission"),
    ("ACL failure in script", StoreRejected, "permission"),  # Valkey
    ("The user executing the script", StoreRejected, "permission"),  # Redis
    ("MISCONF", StoreRejected, "misconfigured"),
    ("NOREPLICAS", StoreRejected, "no_replicas"),
    ("MASTERDOWN", StoreUnavailable, "stale_replica"),
    ("BUSY", StoreUnavailable, "busy"),
)
_HINTS = {
    "authentication": "set FLEETLIMIT_STORE_USERNAME and FLEETLIMIT_STORE_PASSWORD or "
    "FLEETLIMIT_STORE_CREDENTIALS_FILE, or for sentinels ?sentinel_username= and "
    "?sentinel_password= in FLEETLIMIT_STORE",
    "cluster_mode": "the server belongs to a Cluster: write redis+cluster:// or rediss+cluster:// "
    "in FLEETLIMIT_STORE",
    "certificate": "set the CA of the store with ?ssl_ca_certs= in FLEETLIMIT_STORE, and use a "
    "host name that is in the store's certificate",
    "permission": "run ACL LOG on the store to see which command or key its user lacks",
}
"""Hints for errors that a retry does not fix, by kind."""
RECONNECT_KINDS: Final = frozenset({"authentication", "read_only", "stale_replica"})
"""Kinds of error replies that a new connection may fix: the host name or Sentinel may lead to a new
primary, and the credentials may have changed."""


def to_store_error(error: Exception) -> StoreError:
    """Return the `StoreError` for an error of redis-py."""
    if isinstance(error, StoreError):
        return error
    if isinstance(error, driver.RedisClusterException) and isinstance(error.__cause__, Exception):
        # No node accepted a connection. A node that rejects the credentials is not down.
        cause = to_store_error(error.__cause__)
        if isinstance(cause, StoreRejected):
            return cause
    text = str(error)
    error_type, kind = _classify(error, text)
    message = f"{'unexpected reply' if kind == 'response' else kind}: {text}"
    # The text of a `CredentialError` says what to write.
    if kind in _HINTS and not isinstance(error, CredentialError):
        message += f"; {_HINTS[kind]}"
    return error_type(message, kind=kind)


def timeout_error(seconds: float) -> StoreUnavailable:
    """Return the error for a reply that did not arrive in time."""
    return StoreUnavailable(f"timeout: no answer within {seconds * 1000:g} ms", kind="timeout")


def _classify(error: Exception, text: str) -> tuple[type[StoreError], str]:
    for marker, error_type, kind in _MARKERS_BEFORE_TYPE:
        if marker in text:
            return error_type, kind
    for driver_error, error_type, kind in _BY_TYPE:
        if isinstance(error, driver_error):
            return error_type, kind
    for marker, error_type, kind in _MARKERS_AFTER_TYPE:
        if marker in text:
            return error_type, kind
    return StoreRejected, "response"
