"""PromQL building blocks: selectors, rates and aggregations that stay correct when pods restart."""

from typing import Final

from fleetlimit.telemetry import names

POD: Final = "pod"
RELEASE: Final = ("namespace", "job")
"""Scrape labels that identify a Helm release."""

PODS: Final = 'namespace=~"$namespace", job=~"$job", instance=~"$instance"'
STORES: Final = 'job=~"$store_job", instance=~"$store_instance"'
"""Matchers of redis_exporter, which is a scrape job of its own."""
SELECTED_POLICY: Final = f'{names.POLICY}=~"$policy"'

RATE_INTERVAL: Final = "$__rate_interval"
RANGE: Final = "$__range"


def series(name: str, *matchers: str, of: str = PODS) -> str:
    """Return a selector.

    Args:
        name: Metric name.
        matchers: Additional label matchers.
        of: Matchers of the scrape target.
    """
    return f"{name}{{{', '.join((of, *matchers))}}}"


def changed_state(of: str = PODS) -> str:
    """Return how often each release's store lost its state or its server in the last ten minutes.

    The audit shows an overshoot for five minutes, from at most a quarter of a minute after it.
    """
    return " + ".join(
        total(f"increase({series(each.name, of=of)}[10m])", *RELEASE)
        for each in (names.STORE_STATE_LOST, names.STORE_SERVER_CHANGES)
    )


def one_of(label: str, *values: str) -> str:
    """Return a matcher for these values of a label."""
    return f'{label}="{values[0]}"' if len(values) == 1 else f'{label}=~"{"|".join(values)}"'


def rate(name: str, *matchers: str, of: str = PODS) -> str:
    """Return the per-second rate of a counter."""
    return f"rate({series(name, *matchers, of=of)}[{RATE_INTERVAL}])"


def increase(name: str, *matchers: str, of: str = PODS) -> str:
    """Return the increase of a counter over the dashboard's time range."""
    return f"increase({series(name, *matchers, of=of)}[{RANGE}])"


def max_over(name: str, *matchers: str, over: str = RATE_INTERVAL) -> str:
    """Return the maximum of a gauge, so that a peak between two graph points is visible."""
    return f"max_over_time({series(name, *matchers)}[{over}])"


def aggregate(operator: str, expression: str, *labels: str) -> str:
    """Aggregate by these labels."""
    by = f" by ({', '.join(labels)})" if labels else ""
    return f"{operator}{by} ({expression})"


def total(expression: str, *labels: str) -> str:
    """Sum by these labels."""
    return aggregate("sum", expression, *labels)


def ratio(part: str, whole: str) -> str:
    """Divide series with equal labels; 0/0 is 0 and not NaN."""
    return f"{part} / clamp_min({whole}, 1e-9)"


def bucket(histogram: str) -> str:
    """Return the name of a histogram's bucket series."""
    return f"{histogram}_bucket"


def quantile(level: float, histogram: str, *labels: str) -> str:
    """Return a quantile over all pods, by these labels."""
    buckets = total(rate(bucket(histogram)), "le", *labels)
    # Without observations the quantile is NaN. The comparison drops NaN series.
    return f"histogram_quantile({level}, {buckets}) >= 0"


def or_zero(expression: str, label: str = "") -> str:
    """Return 0 if the counter has no series yet, and no result if no pod is scraped.

    Args:
        expression: A query without labels, or with `label` alone.
        label: Label that the zero carries with the value `none`, for the legend.
    """
    zero = f"0 * count({series(names.BUILD_INFO.name)})"
    if label:
        zero = f'label_replace({zero}, "{label}", "none", "", "")'
    return f"({expression} or on () {zero})"


def of_fleetlimit(expression: str) -> str:
    """Drop the series of scrape jobs without a Fleetlimit pod.

    Metrics such as `up` exist for every job, and the variable `job` may select all jobs.
    """
    return f"{expression} and on ({', '.join(RELEASE)}) {series(names.BUILD_INFO.name)}"
