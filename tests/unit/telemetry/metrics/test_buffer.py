"""Buffered counter updates: included in every scrape, and applied once."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter

from fleetlimit.core.decision import Outcome
from fleetlimit.telemetry.metrics.buffer import BATCH_SIZE, BufferedUpdates
from fleetlimit.telemetry.metrics.observer import PrometheusMetrics
from support.telemetry import decision_event, policy_result


def test_scrape_flushes_the_buffer() -> None:
    """Updates are applied by the scrape, and only once."""
    registry = CollectorRegistry()
    counted: list[str] = []

    def count(kinds: Iterable[str]) -> None:
        for kind in kinds:
            counted.append(kind)
            counter.labels(kind).inc()

    tally = BufferedUpdates(registry, count)
    counter = Counter("seen", "Seen.", ["kind"], registry=registry)
    for kind in ("a", "b", "a"):
        tally.add(kind)
    assert counted == []
    assert registry.get_sample_value("seen_total", {"kind": "a"}) == 2
    assert registry.get_sample_value("seen_total", {"kind": "b"}) == 1
    assert counted == ["a", "b", "a"]
    assert list(tally.describe()) == []


def test_full_batch_is_flushed_without_a_scrape() -> None:
    """The buffer is bounded in a process that is never scraped."""
    counted: list[int] = []
    tally: BufferedUpdates[int] = BufferedUpdates(CollectorRegistry(), counted.extend)
    for number in range(2 * BATCH_SIZE + 1):
        tally.add(number)
    assert counted == list(range(2 * BATCH_SIZE))


def test_flush_updates_a_single_counter() -> None:
    """A reader of one counter calls `flush` first."""
    registry = CollectorRegistry()
    metrics = PrometheusMetrics(registry)
    metrics.register()
    metrics.on_event(decision_event(Outcome.ALLOWED, policy_result("a")))
    metrics.flush()
    alone = registry.restricted_registry(["fleetlimit_checks_total"])
    (checks,) = alone.collect()
    values = {
        each.labels["outcome"]: each.value
        for each in checks.samples
        if each.name == checks.name + "_total"
    }
    assert values["allowed"] == 1
