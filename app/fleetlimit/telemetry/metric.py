"""What a metric is: its name, its kind, and what it means."""

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What a metric is to Prometheus."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric's name as it is written in a query, and what it means.

    Args:
        name: Name, with the `_total` of a counter.
        kind: Counter, gauge or histogram.
        help: One sentence for people.
        labels: Names of its labels, in order.
        buckets: Upper bounds of a histogram, in the metric's unit.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def series(self) -> tuple[str, ...]:
        """Names that a query can ask for."""
        if self.kind is Kind.HISTOGRAM:
            return (f"{self.name}_bucket", f"{self.name}_count", f"{self.name}_sum")
        return (self.name,)
