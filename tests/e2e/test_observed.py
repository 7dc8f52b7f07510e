"""Metrics, rules, alerts, dashboards and traces of a release under load and in an outage."""

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import pytest

from fleetlimit.core.decision import Outcome
from fleetlimit.telemetry import names
from support import boards
from support import e2e_timeouts as timeouts
from support.e2e_broken import WITH_STORE
from support.e2e_jaeger import Jaeger, Span
from support.e2e_observed import DEGRADED, NAMESPACE, PLAN, UNREACHABLE, FaultRun
from support.e2e_outage import (
    ALLOW,
    DENY,
    LOCAL,
    check_counters_in_outages,
    check_results_in_outages,
)
from support.e2e_page import Page
from support.e2e_panels import draw
from support.e2e_prometheus import Prometheus
from support.e2e_release import Release
from support.eventually import eventually
from support.rules import RULES

DECISIONS, OF_RELEASE = names.DECISIONS.name, f'namespace="{NAMESPACE}"'
STATE_LOST = "FleetlimitStateLost"
NOT_HAPPENED = {"Reloads": "the policies do not change"}
"""Panels without data, and the reason."""
SERVED, CALLED = "server", "client"


@pytest.mark.measured(*WITH_STORE)
def test_prometheus_has_the_counts_of_the_clients(faults: FaultRun, prometheus: Prometheus) -> None:
    """Counters of all pods, the deleted one included, add up to the results of the clients."""
    answers, row = faults.answers, faults.row
    row.expect(beyond_promise=0, refused=0, broken=0)
    check_results_in_outages(answers, [faults.outage])
    check_counters_in_outages(faults.watch, answers, [faults.outage])
    assert faults.gone in row.pods
    assert sum(row.pods[faults.gone]), "the pod that went had decided nothing"

    eventually(
        lambda: _counted_by_prometheus(prometheus, faults) == _counted_by_clients(faults),
        within=timeouts.SCRAPED,
        what=f"Prometheus has what clients saw: {_counted_by_clients(faults)}",
    )


def _counted_by_clients(faults: FaultRun) -> Mapping[tuple[str, str], int]:
    """Return the results of the clients by policy: admitted, denied, denied without the store."""
    found: Counter[tuple[str, str]] = Counter()
    for policy in (ALLOW, DENY, LOCAL):
        mine = faults.answers.of(policy=policy)
        found[policy, "admitted"] = mine.admitted
        found[policy, Outcome.DENIED] = mine.denied
        found[policy, Outcome.FAIL_CLOSED] = len(mine.server_errors)
    return +found


def _counted_by_prometheus(
    prometheus: Prometheus, faults: FaultRun
) -> Mapping[tuple[str, str], int]:
    """Return the same from Prometheus: the sum of the last values of each pod's counters."""
    seconds = (faults.end_us - faults.start_us) // 1_000_000 + timeouts.SCRAPED
    found: Counter[tuple[str, str]] = Counter()
    # Decisions of a policy in shadow mode are invisible to clients.
    counters = f'{DECISIONS}{{{OF_RELEASE}, policy!="{PLAN}"}}[{seconds}s]'
    for labels, value in prometheus.at(
        f"sum by (policy, outcome) (last_over_time({counters}))",
        faults.end_us + timeouts.SCRAPED * 1_000_000,
    ):
        rejected = labels["outcome"] in {Outcome.DENIED, Outcome.FAIL_CLOSED}
        outcome = labels["outcome"] if rejected else "admitted"
        found[labels["policy"], outcome] += round(value)
    return +found


def test_prometheus_evaluates_all_rules(faults: FaultRun, prometheus: Prometheus) -> None:
    """Prometheus evaluates all rules of the release without an error."""
    del faults
    groups = prometheus.get("rules")["groups"]
    loaded = [rule for group in groups for rule in group["rules"]]
    assert Counter(rule["name"] for rule in loaded) == Counter(
        rule.get("record") or rule["alert"] for rule in RULES
    )
    assert {rule["name"]: rule.get("lastError") for rule in loaded if rule["health"] != "ok"} == {}


def test_alerts_fire_during_an_outage_and_not_before(
    faults: FaultRun, prometheus: Prometheus
) -> None:
    """Alerts of an outage fire during it, that of lost state after it, and none before."""
    fired = eventually(
        lambda: _fired(prometheus, faults, STATE_LOST), within=timeouts.FIRES, what=STATE_LOST
    )
    early = {name for name, at_us in fired.items() if at_us < faults.outage.start_us}
    assert not early, f"fired before the outage: {early}"
    # The outage lasted until both had fired.
    assert {UNREACHABLE, DEGRADED} <= set(fired)


def _fired(prometheus: Prometheus, faults: FaultRun, wanted: str) -> Mapping[str, int]:
    """Return the first time each alert fired, in microseconds; empty until `wanted` has fired."""
    expression = f'ALERTS{{{OF_RELEASE}, alertstate="firing"}}'
    found = prometheus.over(expression, faults.start_us, time.time_ns() // 1000)
    first = {labels["alertname"]: values[0][0] for labels, values in found}
    return first if wanted in first else {}


def test_every_panel_has_data(faults: FaultRun, prometheus: Prometheus, page: Page) -> None:
    """Every query of every dashboard returns data, except for events that did not happen."""
    page.drawings = draw(
        prometheus.get, faults.start_us, time.time_ns() // 1000, faults.watch.marks
    )
    empty: dict[str, str] = {}
    for query in chain(boards.queries(), boards.moments()):
        expression = boards.filled(query.expression)
        found = prometheus.over(expression, faults.start_us, faults.end_us)
        if not any(values for _, values in found):
            empty[query.title] = f"{query}: {expression}"
    assert set(empty) <= set(NOT_HAPPENED), {
        title: query for title, query in empty.items() if title not in NOT_HAPPENED
    }


def test_denied_request_has_a_trace_of_three_spans(
    observed: Release, faults: FaultRun, prometheus: Prometheus
) -> None:
    """A request is a trace of three spans; a log line and an exemplar name that of a denial."""
    jaeger = Jaeger(observed.cluster)
    logged = {
        line["trace_id"]: line
        for file in faults.watch.folder.glob("*.log")
        for line in map(_line, file.read_text().splitlines())
        if line.get("event") == names.LOG_DENIED
    }
    shown = prometheus.exemplars(
        f'{DECISIONS}{{{OF_RELEASE}, outcome="denied"}}',
        faults.start_us,
        faults.end_us,
    )
    both = [labels[names.TRACE_ID] for labels in shown if labels.get(names.TRACE_ID) in logged]
    assert both, f"{len(shown)} exemplars and {len(logged)} log lines have no trace in common"
    line = logged[both[-1]]
    spans = eventually(
        lambda: jaeger.trace(both[-1]), within=timeouts.TRACED, what="the trace of a denied request"
    )
    _expect_check(spans, line["policy"], "denied")
    assert line["pod"] in {span.pod for span in spans}

    tags = {names.ATTR_OUTCOME: "allowed", names.ATTR_SOURCE: "store"}
    found = eventually(
        lambda: jaeger.traces("fleetlimit", tags), within=timeouts.TRACED, what="an allowed request"
    )
    called = 0
    for trace in found:
        _, check = _expect_check(trace, "", "allowed")
        for call in (span for span in trace if span.parent == check.number):
            assert call.tags["span.kind"] == CALLED
            assert call.tags[names.ATTR_DB_SYSTEM] == "redis"
            called += 1
    # The store call of a batch belongs to the trace of its first check.
    assert called, f"none of {len(found)} traces has a call to the store"


def _line(text: str) -> dict[str, Any]:
    try:
        return dict(json.loads(text))
    except ValueError:
        return {}


def _expect_check(spans: Sequence[Span], policy: str, result: str) -> tuple[Span, Span]:
    (server,) = (span for span in spans if span.tags.get("span.kind") == SERVED)
    (check,) = (span for span in spans if span.name == names.SPAN_CHECK)
    assert check.parent == server.number
    assert "error" not in server.tags, "a rejection is not an error"
    assert check.tags[names.ATTR_OUTCOME] == result
    assert check.tags[names.ATTR_POLICIES]
    assert policy in check.tags[names.ATTR_POLICIES]
    return server, check
