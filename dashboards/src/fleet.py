"""Dashboard *Fleet*: one row per release, for clusters with many."""

from collections.abc import Iterator

from grafana_foundation_sdk.models.dashboard import Panel

import queries
from dashboard import FLEET, HEALTHY, HOLDS, THROTTLED, Board, Row, board_url
from fleetlimit.telemetry import names
from panels import Card, Column, Link, Query, graph_panel, small, stat_panel, table_panel
from promql import RANGE, RELEASE, quantile
from style import (
    ABOVE_ZERO_IS_GOOD,
    GREEN,
    NO_CHECKS,
    NOT_AUDITED,
    ONE_IS_GOOD,
    RED,
    STORE_SECONDS,
    ZERO_IS_BETTER,
    ZERO_IS_GOOD,
)


def board() -> Board:
    """Return the dashboard."""
    return Board(
        FLEET,
        "Fleet",
        "All Fleetlimit releases that this Prometheus scrapes.",
        (),
        tuple(_overview()),
        (Row(300, "Compared", tuple(_graphs())), Row(200, "Releases", (_table(),))),
        advice_height=6,
    )


def _overview() -> Iterator[Panel]:
    yield stat_panel(
        small(
            101,
            "With overshoot",
            "Releases that admitted more than a limit permits, also after a lost state.",
        ),
        queries.overshooting_releases(),
        steps=ZERO_IS_GOOD,
        no_data=NOT_AUDITED,
    )
    yield stat_panel(
        small(102, "With open breaker", "Releases in which a pod's circuit breaker is open."),
        queries.releases_with_an_open_breaker(),
        steps=ZERO_IS_GOOD,
    )
    yield stat_panel(
        small(103, "With different policies", "Releases whose pods serve different policy sets."),
        queries.releases_with_different_policies(),
        steps=ZERO_IS_GOOD,
    )
    yield stat_panel(
        small(104, "Last policy reload", "Pods that rejected the last policy file."),
        queries.pods_with_a_rejected_file(),
        steps=ZERO_IS_GOOD,
        texts={0: ("accepted", GREEN)},
    )
    yield stat_panel(
        small(105, "Number of releases", "Releases with a pod, by namespace and job."),
        queries.releases(),
    )
    yield stat_panel(
        small(106, "Replicas serving", "Pods that Prometheus scrapes successfully."),
        queries.serving_pods(),
        steps=ABOVE_ZERO_IS_GOOD,
    )


def _graphs() -> Iterator[Panel]:
    def small_graph(id_: int, title: str, description: str) -> Card:
        # Three graphs per line, so that the table is half a page below the top.
        return Card(id_, title, description, 8, 6)

    legend = "/".join(f"{{{{{label}}}}}" for label in RELEASE)
    yield graph_panel(
        small_graph(301, "Checks", "Checked requests per second of each release."),
        Query(queries.checks(*RELEASE), legend),
        unit="reqps",
    )
    yield graph_panel(
        small_graph(302, "Denied share", "Fraction of the checked requests that is denied."),
        Query(queries.denied_share(*RELEASE), legend),
        unit="percentunit",
    )
    yield graph_panel(
        small_graph(303, "Check latency p99", "p99 of the time to decide a request."),
        Query(quantile(0.99, names.CHECK_DURATION.name, *RELEASE), legend, exemplars=True),
        unit="s",
        no_data=NO_CHECKS,
    )
    yield graph_panel(
        small_graph(
            304,
            "Degraded checks",
            "Fraction of the checks that is decided without the shared limit.",
        ),
        Query(queries.degraded_share(*RELEASE), legend),
        unit="percentunit",
    )
    yield graph_panel(
        small_graph(305, "Overshoot", "Largest number of units admitted above a limit."),
        Query(queries.overshoot(*RELEASE), legend),
        no_data=NOT_AUDITED,
    )
    yield graph_panel(
        small_graph(306, "Replicas", "Pods that Prometheus scrapes successfully."),
        Query(queries.serving_pods_by_release(), legend),
    )


def _table() -> Panel:
    selected = {label: f"${{__data.fields.{label.capitalize()}}}" for label in RELEASE}
    return table_panel(
        Card(
            201,
            "Releases",
            "One row per release. The cells *Namespace* and *Job* link to its other dashboards.",
            24,
            12,
        ),
        RELEASE,
        Column(
            "Overshoot", queries.overshoot(*RELEASE, over=RANGE), decimals=0, steps=ZERO_IS_GOOD
        ),
        Column(
            "Breaker", queries.breaker(*RELEASE), texts={0: ("closed", GREEN), 1: ("open", RED)}
        ),
        Column(
            "Degraded checks",
            queries.degraded_share(*RELEASE),
            unit="percentunit",
            steps=ZERO_IS_GOOD,
        ),
        Column("Store errors", queries.store_errors_by_release(), unit="ops", steps=ZERO_IS_BETTER),
        Column("Policy sets", queries.policy_sets_by_release(), steps=ONE_IS_GOOD),
        Column("Rejected files", queries.pods_with_a_rejected_file(*RELEASE), steps=ZERO_IS_GOOD),
        Column("Pods", queries.serving_pods_by_release()),
        Column("Uncounted pods", queries.uncounted_pods(*RELEASE), steps=ZERO_IS_GOOD),
        Column("Checks", queries.checks(*RELEASE), unit="reqps"),
        Column("Denied", queries.denied_share(*RELEASE), unit="percentunit"),
        Column(
            "Latency p99",
            quantile(0.99, names.CHECK_DURATION.name, *RELEASE),
            unit="s",
            steps=STORE_SECONDS,
        ),
        links=(
            Link("Does the limit hold?", board_url(HOLDS, **selected)),
            Link("Who is throttled?", board_url(THROTTLED, **selected)),
            Link("Is the limiter healthy?", board_url(HEALTHY, **selected)),
        ),
    )
