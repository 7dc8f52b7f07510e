"""Translation of redis-py's errors: every error becomes a `StoreError` of a known kind."""

import pytest
from redis import exceptions as driver

from fleetlimit.errors import BucketCorrupt, StoreError, StoreRejected, StoreUnavailable
from fleetlimit.stores.redis.errors import to_store_error


@pytest.mark.parametrize(
    ("error", "expected", "kind"),
    [
        (driver.AuthenticationError("WRONGPASS"), StoreRejected, "authentication"),
        (driver.AuthorizationError("no"), StoreRejected, "authentication"),
        (driver.BusyLoadingError("LOADING"), StoreUnavailable, "loading"),
        (driver.MaxConnectionsError("full"), StoreUnavailable, "connection"),
        (driver.ConnectionError("closed"), StoreUnavailable, "connection"),
        (driver.TimeoutError("slow"), StoreUnavailable, "timeout"),
        (driver.ReadOnlyError("replica"), StoreRejected, "read_only"),
        (driver.OutOfMemoryError("full"), StoreRejected, "out_of_memory"),
        (driver.NoPermissionError("acl"), StoreRejected, "permission"),
        (driver.ConnectionError("[SSL: CERTIFICATE_VERIFY_FAILED]"), StoreRejected, "certificate"),
        (driver.ClusterDownError("CLUSTERDOWN"), StoreUnavailable, "cluster_down"),
        (driver.SlotNotCoveredError("slot"), StoreUnavailable, "cluster_down"),
        (driver.MovedError("1 host:1"), StoreRejected, "cluster_mode"),
        (driver.ClusterCrossSlotError("slots"), StoreRejected, "cluster_mode"),
        (driver.AskError("1 host:1"), StoreUnavailable, "cluster_moving"),
        (driver.TryAgainError("TRYAGAIN"), StoreUnavailable, "cluster_moving"),
        (driver.RedisClusterException("none left"), StoreUnavailable, "cluster_down"),
        (ConnectionRefusedError("refused"), StoreUnavailable, "connection"),
        (TimeoutError(), StoreUnavailable, "timeout"),
        (driver.ResponseError("WRONGTYPE held"), BucketCorrupt, "wrong_type"),
        (driver.ResponseError("READONLY replica"), StoreRejected, "read_only"),
        (driver.ResponseError("-OOM command"), StoreRejected, "out_of_memory"),
        (driver.ResponseError("NOPERM this user"), StoreRejected, "permission"),
        (driver.ResponseError("ACL failure in script: User"), StoreRejected, "permission"),
        (driver.ResponseError("The user executing the script"), StoreRejected, "permission"),
        (driver.ResponseError("MISCONF disk"), StoreRejected, "misconfigured"),
        (driver.ResponseError("NOREPLICAS few"), StoreRejected, "no_replicas"),
        (driver.ResponseError("MASTERDOWN link"), StoreUnavailable, "stale_replica"),
        (driver.MasterDownError("Link with MASTER"), StoreUnavailable, "stale_replica"),
        (driver.ResponseError("BUSY script"), StoreUnavailable, "busy"),
        (driver.ResponseError("ERR what"), StoreRejected, "response"),
        (driver.NoScriptError("NOSCRIPT"), StoreRejected, "response"),
        (driver.InvalidResponse("noise"), StoreRejected, "response"),
        (KeyError("bug"), StoreRejected, "response"),
    ],
)
def test_error_has_a_class_and_a_kind(
    error: Exception, expected: type[StoreError], kind: str
) -> None:
    """Each error says whether a retry can help, and has a bounded kind for metrics."""
    found = to_store_error(error)
    assert type(found) is expected
    assert found.kind == kind
    assert str(error) in str(found)


@pytest.mark.parametrize(
    ("cause", "expected", "kind"),
    [
        (driver.AuthenticationError("WRONGPASS"), StoreRejected, "authentication"),
        (driver.ConnectionError("CERTIFICATE_VERIFY_FAILED"), StoreRejected, "certificate"),
        (driver.ConnectionError("closed"), StoreUnavailable, "cluster_down"),
        (None, StoreUnavailable, "cluster_down"),
    ],
)
def test_cluster_error_has_the_cause(
    cause: Exception | None, expected: type[StoreError], kind: str
) -> None:
    """Nodes that reject the credentials are not down: a retry does not help."""
    error = driver.RedisClusterException("cannot be connected")
    error.__cause__ = cause
    found = to_store_error(error)
    assert (type(found), found.kind) == (expected, kind)


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (driver.AuthenticationError("WRONGPASS"), "FLEETLIMIT_STORE_PASSWORD"),
        (driver.ConnectionError("CERTIFICATE_VERIFY_FAILED"), "ssl_ca_certs"),
        (driver.NoPermissionError("acl"), "ACL"),
    ],
)
def test_configuration_error_has_a_hint(error: Exception, advice: str) -> None:
    """An error of the settings names the setting."""
    assert advice in str(to_store_error(error))


def test_store_error_is_returned_unchanged() -> None:
    """A `StoreError` is returned unchanged."""
    own = StoreUnavailable("gone", kind="timeout")
    assert to_store_error(own) is own
