"""Names of metrics and labels: complete, well-formed, and without identities."""

import re
from pathlib import Path

from prometheus_client import CollectorRegistry

from fleetlimit.stores.redis.batcher import MAX_BATCH
from fleetlimit.telemetry import names
from fleetlimit.telemetry.metrics.observer import PrometheusMetrics
from fleetlimit.telemetry.names import MetricSpec, MetricType

GUIDE = Path(__file__).parents[3] / "docs" / "operations.md"


def test_registry_exports_exactly_the_specified_metrics() -> None:
    """The registry holds the metrics of `names`, and no other of Fleetlimit's."""
    registry = CollectorRegistry()
    PrometheusMetrics(registry).register()
    registered = {family.name for family in registry.collect()}
    named = {metric.name.removesuffix("_total") for metric in names.METRICS}
    assert {name for name in registered if name.startswith("fleetlimit_")} == named


def test_operations_guide_lists_every_metric() -> None:
    """The guide's table has each metric once, with its labels, and no other."""
    rows = re.findall(r"^\| `(fleetlimit_\w+)` \| (.*?) ?\|", GUIDE.read_text(), re.MULTILINE)
    listed = [(name, tuple(re.findall(r"`(\w+)`", labels))) for name, labels in rows]
    assert sorted(listed) == sorted((metric.name, metric.labels) for metric in names.METRICS)


def test_every_metric_constant_is_listed() -> None:
    """`METRICS` lists each metric once."""
    constants = [value for value in vars(names).values() if isinstance(value, MetricSpec)]
    assert sorted(constants, key=repr) == sorted(names.METRICS, key=repr)


def test_metric_names_follow_prometheus() -> None:
    """Only counters end in `_total`, and every help text is a sentence."""
    for metric in names.METRICS:
        assert re.fullmatch(r"fleetlimit_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.type is MetricType.COUNTER)
        assert metric.help.endswith(".")


def test_no_identity_is_a_label() -> None:
    """Label values are bounded by the policy file and the code (envoyproxy/ratelimit #331)."""
    labels = {label for metric in names.METRICS for label in metric.labels}
    policies = {"policy", "limit", "digest", "tier"}
    code = {"outcome", "source", "result", "error_type", "version", "route", "reason"}
    # One random identifier and one fingerprint at a time.
    store = {"state", "key_secret"}
    assert labels == policies | code | store


def test_outcomes_and_sources_are_stable() -> None:
    """Dashboards and alerts may use these values."""
    promised = {"allowed", "denied", "shadow_denied", "fail_open", "fail_closed", "exempt"}
    assert set(names.OUTCOMES) == promised
    assert set(names.SOURCES) == {"store", "prefetch", "cache", "local", "none"}


def test_largest_pipeline_has_a_bucket() -> None:
    """The last bucket of the pipeline size is the maximum size."""
    assert names.BATCH_BUCKETS[-1] == MAX_BATCH


def test_series_of_a_histogram() -> None:
    """A query selects a histogram's buckets, count or sum, and another metric by its name."""
    assert names.CHECKS.series == ("fleetlimit_checks_total",)
    assert names.CHECK_DURATION.series == (
        "fleetlimit_check_duration_seconds_bucket",
        "fleetlimit_check_duration_seconds_count",
        "fleetlimit_check_duration_seconds_sum",
    )
