"""Dashboard *Does the limit hold?*: admitted against permitted units over all pods."""

from collections.abc import Iterator
from typing import Final

from grafana_foundation_sdk.models.dashboard import Panel

import queries
from dashboard import HOLDS, Board, Row, policy_variable
from fleetlimit.telemetry import names
from panels import Card, Column, Query, graph_panel, small, stat_panel, table_panel
from promql import POD, RELEASE, SELECTED_POLICY, aggregate, series, total
from style import ABOVE_ZERO_IS_GOOD, GREEN, NOT_AUDITED, ONE_IS_GOOD, RED, ZERO_IS_GOOD

_LIMIT: Final = (names.POLICY, names.LIMIT)


def board() -> Board:
    """Return the dashboard."""
    return Board(
        HOLDS,
        "Does the limit hold?",
        "Admitted against permitted units over all pods, and whether all pods serve the same "
        "policies.",
        (policy_variable(),),
        tuple(_overview()),
        (
            Row(200, "Admitted against permitted", tuple(_audit())),
            Row(300, "Replicas and policies", tuple(_replicas())),
        ),
        advice_height=10,
    )


def _overview() -> Iterator[Panel]:
    yield stat_panel(
        small(
            101,
            "Overshoot",
            "Largest number of units admitted above a limit in the time range, among the audited "
            "keys. Excludes the ten minutes after a change of the store's state. Healthy is 0.",
            6,
        ),
        queries.worst_overshoot(),
        steps=ZERO_IS_GOOD,
        no_data=NOT_AUDITED,
    )
    audited = aggregate("max", series(names.AUDIT_CALLERS.name), *RELEASE, names.POLICY)
    yield stat_panel(
        small(
            102,
            "Keys audited",
            "Keys whose admitted units are compared with their limits. Without any, the overshoot "
            "is unknown.",
            3,
        ),
        total(audited),
        steps=ABOVE_ZERO_IS_GOOD,
        no_data=NOT_AUDITED,
    )
    yield stat_panel(
        small(103, "Replicas serving", "Pods that Prometheus scrapes successfully.", 3),
        queries.serving_pods(),
        steps=ABOVE_ZERO_IS_GOOD,
    )
    yield stat_panel(
        small(
            104,
            "Uncounted pods",
            "Pods that are missing from another pod's replica count. Pods that do not share a "
            "store each grant the whole limit, and the audit cannot see it.",
            3,
        ),
        queries.uncounted_pods(),
        steps=ZERO_IS_GOOD,
    )
    yield stat_panel(
        small(
            105,
            "Policy sets in force",
            "Different policy sets that the pods of one release serve. Healthy is 1.",
            3,
        ),
        queries.policy_sets(),
        steps=ONE_IS_GOOD,
    )
    yield stat_panel(
        small(
            106,
            "Last policy reload",
            "Pods that rejected the last policy file. They continue with the previous policies.",
            3,
        ),
        queries.pods_with_a_rejected_file(),
        steps=ZERO_IS_GOOD,
        texts={0: ("accepted", GREEN)},
    )
    yield stat_panel(
        small(
            107,
            "Open breakers",
            "Pods with an open circuit breaker. They apply `on_store_error` of each policy; in a "
            "Cluster only for the buckets of the lost server.",
            3,
        ),
        queries.open_breakers(),
        steps=ZERO_IS_GOOD,
    )


def _audit() -> Iterator[Panel]:
    permitted = queries.audited(names.AUDIT_PERMITTED.name)
    yield graph_panel(
        Card(
            201,
            "Admitted against permitted, by policy",
            "Units admitted for the audited keys per second, over all pods. Dashed: units that "
            "the limits permit, which is a full burst for a new key and the refill after it.",
        ),
        Query(queries.audited(names.AUDIT_ADMITTED.name, names.POLICY), "{{policy}}"),
        Query(queries.audited(names.AUDIT_PERMITTED.name, names.POLICY), "{{policy}} permitted"),
        unit="cps",
        dashed="permitted",
        no_data=NOT_AUDITED,
    )
    yield graph_panel(
        Card(
            202,
            "Admitted by pod, against permitted",
            "The same units over all selected policies, stacked by pod. The number of pods does "
            "not change the height of the stack.",
        ),
        Query(queries.audited(names.AUDIT_ADMITTED.name, POD), "{{pod}}"),
        Query(permitted, "permitted"),
        unit="cps",
        stacked=True,
        dashed="permitted",
        colors={"permitted": RED},
        no_data=NOT_AUDITED,
    )
    yield graph_panel(
        Card(
            203,
            "Overshoot by policy",
            "Units admitted above the limit of one key over all pods, in the last five minutes. "
            "Healthy is 0. Excludes the ten minutes after a change of the store's state, which the "
            "next graph shows.",
        ),
        Query(queries.unexplained_overshoot(names.POLICY), "{{policy}}"),
        no_data=NOT_AUDITED,
    )
    yield graph_panel(
        Card(
            204,
            "Audited intervals",
            "Intervals of audited keys that are compared with their limits per second. At 0 no "
            "audit is running.",
        ),
        Query(queries.audited(names.AUDIT_INTERVALS.name, names.POLICY), "{{policy}}"),
        unit="cps",
        no_data=NOT_AUDITED,
    )
    yield graph_panel(
        Card(
            205,
            "Overshoot after a lost state, by policy",
            "The same in the ten minutes after the store lost its state, restarted or failed over. "
            "Buckets were full again.",
        ),
        Query(queries.explained_overshoot(names.POLICY), "{{policy}}"),
        no_data=NOT_AUDITED,
    )
    yield graph_panel(
        Card(
            206,
            "Admitted by local fallback, by policy",
            "Requests of all keys that pods admitted from their share of the limit while they did "
            "not reach the store, in the last five minutes. The audit does not count them. At most "
            "this many are above the limit.",
        ),
        Query(queries.local_admissions(), "{{policy}}"),
    )


def _replicas() -> Iterator[Panel]:
    yield graph_panel(
        Card(
            301,
            "Share of each pod",
            "Fraction of the admitted requests that each pod admitted. It follows the traffic and "
            "may be uneven.",
        ),
        Query(queries.admitted_share_by_pod(), "{{pod}}"),
        unit="percentunit",
        stacked=True,
    )
    yield graph_panel(
        Card(
            302,
            "Replicas",
            "Pods that Prometheus scrapes, and the replica counts that the pods get from the "
            "store. A pod that has just started counts 0.",
        ),
        Query(queries.serving_pods(), "serving"),
        Query(queries.most_replicas_counted(), "counted, maximum"),
        Query(queries.fewest_replicas_counted(), "counted, minimum"),
    )
    digests = aggregate("count", series(names.POLICY_INFO.name), names.DIGEST)
    yield graph_panel(
        Card(
            303,
            "Pods by policy set",
            "Pods that serve each policy set, by its digest. Two colours are normal for about a "
            "minute after a change.",
        ),
        Query(digests, "{{digest}}"),
        stacked=True,
    )
    limit, window = (
        aggregate("max", series(metric.name, SELECTED_POLICY), *_LIMIT)
        for metric in (names.POLICY_LIMIT, names.POLICY_WINDOW)
    )
    yield table_panel(
        Card(
            304,
            "Limits in force",
            "Limits of each policy. A limit of a tier is named `tier/limit`.",
        ),
        _LIMIT,
        Column("Units", limit),
        Column("Window", window, unit="s"),
    )
