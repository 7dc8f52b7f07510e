"""The words that queries are put together from; each keeps sums right when pods come and go."""

from typing import Final

from fleetlimit.telemetry import names
from fleetlimit.telemetry.names import MetricSpec

POD: Final = "pod"
RELEASE: Final = ("namespace", "job")
"""Labels of the scrape that tell releases of Fleetlimit apart."""

OF_PODS: Final = 'namespace=~"$namespace", job=~"$job", instance=~"$instance"'
OF_STORES: Final = 'job=~"$store_job", instance=~"$store_instance"'

WINDOW: Final = "$__rate_interval"
RANGE: Final = "$__range"


def series(name: str, *matchers: str, of: str = OF_PODS) -> str:
    """Select the series of this name.

    Args:
        name: Name of the metric.
        matchers: Further matchers.
        of: Matchers of the pods, or of the stores.
    """
    return f"{name}{{{', '.join((of, *matchers))}}}"


def one_of(label: str, *values: str) -> str:
    """Match one of these values."""
    return f'{label}="{values[0]}"' if len(values) == 1 else f'{label}=~"{"|".join(values)}"'


def picked(label: str) -> str:
    """Match what the reader picked in the variable of the label's name."""
    return f'{label}=~"${label}"'


def rate(name: str, *matchers: str, of: str = OF_PODS) -> str:
    """Return how much a counter grows each second."""
    return f"rate({series(name, *matchers, of=of)}[{WINDOW}])"


def increase(name: str, *matchers: str, of: str = OF_PODS) -> str:
    """Return by how much a counter grew in the time that the reader looks at."""
    return f"increase({series(name, *matchers, of=of)}[{RANGE}])"


def highest(name: str, *matchers: str, over: str = WINDOW) -> str:
    """Return the highest value of a gauge, so that no moment between two points is missed."""
    return f"max_over_time({series(name, *matchers)}[{over}])"


def by(operation: str, labels: tuple[str, ...], expression: str) -> str:
    """Aggregate, keeping these labels."""
    kept = f" by ({', '.join(labels)})" if labels else ""
    return f"{operation}{kept} ({expression})"


def total(expression: str, *labels: str) -> str:
    """Sum up, keeping these labels."""
    return by("sum", labels, expression)


def ratio(part: str, whole: str) -> str:
    """Divide what has the same labels; nothing out of nothing is 0, and not NaN."""
    return f"{part} / clamp_min({whole}, 1e-9)"


def share(part: str, whole: str) -> str:
    """Divide each part by one whole; nothing out of nothing is 0, and not NaN."""
    return f"{part} / on () group_left () clamp_min({whole}, 1e-9)"


def quantile(quantile_: float, histogram: MetricSpec, *labels: str) -> str:
    """Estimate a quantile over all pods, where there were observations."""
    buckets = total(rate(bucket(histogram)), "le", *labels)
    # Without observations it is NaN, which no comparison lets through.
    return f"histogram_quantile({quantile_}, {buckets}) >= 0"


def bucket(histogram: MetricSpec) -> str:
    """Return the name of a histogram's buckets."""
    return histogram.series[0]


def or_zero(expression: str, label: str = "") -> str:
    """Put 0 in place of a counter that is not born yet, but nothing where no pod is scraped.

    Args:
        expression: What may have no series.
        label: A label to write `none` into, for the legend.
    """
    zero = f"0 * count({series(names.BUILD_INFO.name)})"
    if label:
        zero = f'label_replace({zero}, "{label}", "none", "", "")'
    return f"({expression} or on () {zero})"


def or_zero_by_release(expression: str) -> str:
    """Put 0 for each release that has pods and is not in the expression."""
    return f"({expression} or 0 * {by('count', RELEASE, series(names.BUILD_INFO.name))})"


def of_fleetlimit(expression: str) -> str:
    """Keep the series of scrape jobs that have a pod of Fleetlimit.

    Metrics that every process has need it: where the reader picked all jobs, all jobs answer.
    """
    return f"{expression} and on ({', '.join(RELEASE)}) {series(names.BUILD_INFO.name)}"
