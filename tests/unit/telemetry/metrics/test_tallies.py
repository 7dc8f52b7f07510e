"""Tallies: included in every scrape, added once, and bounded."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client import CollectorRegistry, Counter

from fleetlimit.core.decision import Outcome
from fleetlimit.telemetry.metrics.observer import PrometheusMetrics
from fleetlimit.telemetry.metrics.tallies import MAX_TALLIES, Tallies
from support.telemetry import decision_event, policy_result


def test_scrape_adds_what_was_counted() -> None:
    """Equal updates are one increment of the scrape, and are added only once."""
    registry = CollectorRegistry()
    added: list[tuple[str, int]] = []

    def add(kind: str, number: int) -> None:
        added.append((kind, number))
        counter.labels(kind).inc(number)

    tallies = Tallies(registry, add)
    counter = Counter("seen", "Seen.", ["kind"], registry=registry)
    for kind in ("a", "b", "a"):
        tallies.count(kind)
    assert added == []
    assert registry.get_sample_value("seen_total", {"kind": "a"}) == 2
    assert registry.get_sample_value("seen_total", {"kind": "b"}) == 1
    tallies.count("b")
    assert registry.get_sample_value("seen_total", {"kind": "b"}) == 2
    assert added == [("a", 2), ("b", 1), ("b", 1)]
    assert list(tallies.describe()) == []


def test_different_updates_are_bounded_without_a_scrape() -> None:
    """A process that is never scraped keeps at most `MAX_TALLIES`, and loses no update."""
    added: list[tuple[int, int]] = []

    def add(update: int, number: int) -> None:
        added.append((update, number))

    tallies = Tallies(CollectorRegistry(), add)
    for update in range(MAX_TALLIES + 1):
        tallies.count(update)
    assert added == [(each, 1) for each in range(MAX_TALLIES)]
    tallies.count(0)
    tallies.flush()
    assert added[MAX_TALLIES:] == [(MAX_TALLIES, 1), (0, 1)]


def test_update_of_a_failed_scrape_is_not_counted_twice() -> None:
    """A failure is raised to the scraper, and the next scrape goes on behind it."""
    numbers: list[int] = []
    failures = iter([ValueError("full")])

    def add(_update: str, number: int) -> None:
        for failure in failures:
            raise failure
        numbers.append(number)

    tallies = Tallies(CollectorRegistry(), add)
    tallies.count("a")
    with pytest.raises(ValueError, match="full"):
        tallies.flush()
    tallies.count("a")
    tallies.flush()
    assert numbers == [1]


def test_no_update_is_lost_to_scrapes_of_other_threads() -> None:
    """Threads that flush while another one counts add every update once."""
    total = 20_000
    numbers: list[int] = []
    tallies: Tallies[int] = Tallies(CollectorRegistry(), lambda _, number: numbers.append(number))

    def count() -> None:
        for number in range(total):
            tallies.count(number % 7)

    with ThreadPoolExecutor(3) as pool:
        counting = pool.submit(count)

        def flush() -> None:
            while not counting.done():
                tallies.flush()

        for flushing in [pool.submit(flush) for _ in range(2)]:
            flushing.result()
        counting.result()
    tallies.flush()
    assert sum(numbers) == total


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
