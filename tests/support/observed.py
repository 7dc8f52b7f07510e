"""Prometheus metrics of observed events, read as a scraper reads them."""

import re
from collections.abc import Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse
from prometheus_client.samples import Sample

from fleetlimit.limiter.events import Event
from fleetlimit.telemetry.metrics.observer import PrometheusMetrics

OPENMETRICS = "application/openmetrics-text; version=1.0.0,text/plain;q=0.5"
_FAMILY = re.compile("^(?=# HELP )", re.MULTILINE)


class ObservedMetrics:
    """Metrics that have observed some events."""

    def __init__(self, *events: Event) -> None:
        self.registry = CollectorRegistry()
        self.metrics = PrometheusMetrics(self.registry, version="1.2.3")
        self.metrics.register()
        self.on_events(*events)

    def on_events(self, *events: Event) -> None:
        """Observe more events."""
        for event in events:
            self.metrics.on_event(event)

    def value(self, name: str, **labels: str) -> float | None:
        """Return one series, None without it."""
        return self.registry.get_sample_value(name, labels)

    def decisions(self) -> dict[tuple[str, str], float]:
        """Return the decisions, by policy and outcome."""
        return {
            (sample.labels["policy"], sample.labels["outcome"]): sample.value
            for sample in self.samples("fleetlimit_decisions_total")
            if sample.value
        }

    def samples(self, name: str) -> Sequence[Sample]:
        """Return all samples of a name from the exposition format."""
        body, _ = self.metrics.render(OPENMETRICS)
        # The parser takes a second for thousands of series, of which most are of other metrics.
        families = _FAMILY.split(body.decode().removesuffix("# EOF\n"))[1:]
        own = [each for each in families if name.startswith(each.split(maxsplit=3)[2])]
        return [
            sample
            for family in parse("".join([*own, "# EOF\n"]))  # type: ignore[no-untyped-call] # it has no types
            for sample in family.samples
            if sample.name == name
        ]
