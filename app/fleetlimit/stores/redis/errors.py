"""The driver's errors, said in Fleetlimit's words."""

from redis import exceptions as driver

from fleetlimit.errors import BucketCorrupt, StoreError, StoreRefused, StoreUnavailable

_BY_TYPE: tuple[tuple[type[Exception], type[StoreError], str], ...] = (
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
_MARKERS_BEFORE_TYPE: tuple[tuple[str, type[StoreError], str], ...] = (
    # The driver has no class for the one, and behind Sentinel only the name of the other.
    ("CERTIFICATE_VERIFY_FAILED", StoreRefused, "certificate"),
    ("AuthenticationError", StoreRefused, "authentication"),
)
_MARKERS_AFTER_TYPE: tuple[tuple[str, type[StoreError], str], ...] = (
    # Errors that come from within a script carry the server's word, not the driver's class.
    ("WRONGTYPE", BucketCorrupt, "wrong_type"),
    ("READONLY", StoreRefused, "read_only"),
    ("OOM", StoreRefused, "out_of_memory"),
    ("NOPERM", StoreRefused, "permission"),
    ("ACL failure in script", StoreRefused, "permission"),  # Valkey
    ("The user executing the script", StoreRefused, "permission"),  # Redis
    ("MISCONF", StoreRefused, "misconfigured"),
    ("NOREPLICAS", StoreRefused, "no_replicas"),
    ("MASTERDOWN", StoreUnavailable, "cluster_down"),
    ("BUSY", StoreUnavailable, "busy"),
)
_HINTS = {
    "authentication": "give FLEETLIMIT_STORE_USERNAME and FLEETLIMIT_STORE_PASSWORD, or for "
    "sentinels ?sentinel_username= and ?sentinel_password= in FLEETLIMIT_STORE",
    "certificate": "name the CA of the store with ?ssl_ca_certs= in FLEETLIMIT_STORE, and the "
    "store by a name that is in its certificate",
    "permission": "ACL LOG of the store names what its user may not",
}
"""What to do about what trying again does not mend."""


def to_store_error(error: Exception) -> StoreError:
    """Return the error that says what the driver's error means to a limiter."""
    if isinstance(error, StoreError):
        return error
    if isinstance(error, driver.RedisClusterException) and isinstance(error.__cause__, Exception):
        # No node could be joined. One that does not let us in is not down.
        cause = to_store_error(error.__cause__)
        if isinstance(cause, StoreRefused):
            return cause
    text = str(error)
    ours, kind = _classify(error, text)
    message = f"{'unexpected answer' if kind == 'response' else kind}: {text}"
    if kind in _HINTS:
        message += f"; {_HINTS[kind]}"
    return ours(message, kind=kind)


def _classify(error: Exception, text: str) -> tuple[type[StoreError], str]:
    for marker, ours, kind in _MARKERS_BEFORE_TYPE:
        if marker in text:
            return ours, kind
    for driver_error, ours, kind in _BY_TYPE:
        if isinstance(error, driver_error):
            return ours, kind
    for marker, ours, kind in _MARKERS_AFTER_TYPE:
        if marker in text:
            return ours, kind
    return StoreRefused, "response"
