"""What is counted by kind reaches the counters before anybody reads them, and only once."""

from prometheus_client import CollectorRegistry, Counter

from headgate.core.decision import Outcome
from headgate.telemetry.metrics import Metrics
from headgate.telemetry.tally import MAX_KINDS, Tally
from support.telemetry import decided, result


def test_counters_are_up_to_date_when_the_registry_is_read() -> None:
    """Nothing is told until then, and nothing twice."""
    registry = CollectorRegistry()
    told: list[tuple[str, int]] = []

    def tell(kind: str, count: int) -> None:
        told.append((kind, count))
        counter.labels(kind).inc(count)

    tally = Tally(registry, tell)
    counter = Counter("seen", "Seen.", ["kind"], registry=registry)
    for kind in ("a", "b", "a"):
        tally.add(kind)
    assert told == []
    assert registry.get_sample_value("seen_total", {"kind": "a"}) == 2
    assert registry.get_sample_value("seen_total", {"kind": "b"}) == 1
    assert sorted(told) == [("a", 2), ("b", 1)]
    assert list(tally.describe()) == []


def test_kinds_without_end_do_not_fill_the_memory() -> None:
    """When there are too many at a time they are told early."""
    told: list[int] = []
    tally: Tally[int] = Tally(CollectorRegistry(), lambda _, count: told.append(count))
    for kind in range(MAX_KINDS):
        tally.add(kind)
    assert told == [1] * MAX_KINDS


def test_a_counter_can_be_brought_up_to_date_by_itself() -> None:
    """Who reads one counter alone finds what was decided until the last flush."""
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics.observe(decided(Outcome.ALLOWED, result("a")))
    metrics.flush()
    alone = registry.restricted_registry(["headgate_checks_total"])
    (checks,) = alone.collect()
    values = {
        each.labels["outcome"]: each.value
        for each in checks.samples
        if each.name == checks.name + "_total"
    }
    assert values["allowed"] == 1
