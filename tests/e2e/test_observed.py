"""What Prometheus and Jaeger tell of a release under load, in an outage, and of what they miss."""

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from fleetlimit.core.decision import Outcome
from fleetlimit.telemetry import names
from support import boards
from support import e2e_timeouts as timeouts
from support.e2e_away import counted_as_such, each_does_what_it_says
from support.e2e_eventually import eventually
from support.e2e_jaeger import Jaeger, Span
from support.e2e_observed import DEGRADED, NAMESPACE, PLAN, UNREACHABLE, Story
from support.e2e_outage import ALLOW, DENY, LOCAL
from support.e2e_page import Page
from support.e2e_prometheus import Prometheus
from support.e2e_release import Release
from support.e2e_views import draw
from support.rules import RULES

DECISIONS, OF_RELEASE = names.DECISIONS.name, f'namespace="{NAMESPACE}"'
STATE_LOST = "FleetlimitStateLost"
NOT_HAPPENED = {"Reloads": "nobody changes the policies"}
"""What boards have no data for, and why."""
SERVED, CALLED = "server", "client"


def test_observed(story: Story, prometheus: Prometheus) -> None:
    """Counters of all pods, of one that went as well, add up to what clients saw."""
    answers, row = story.answers, story.row
    row.expect(overshoot=0, refused=0, broken=0)
    each_does_what_it_says(answers, [story.outage])
    counted_as_such(story.watch, answers, [story.outage])
    assert story.gone in row.pods
    assert sum(row.pods[story.gone]), "the pod that went had decided nothing"

    eventually(
        lambda: _told(prometheus, story) == _seen(story),
        within=timeouts.SCRAPED,
        what=f"Prometheus has what clients saw: {_seen(story)}",
    )


def _seen(story: Story) -> Mapping[tuple[str, str], int]:
    """Return what clients saw of each policy: let in, refused, refused without the store."""
    found: Counter[tuple[str, str]] = Counter()
    for policy in (ALLOW, DENY, LOCAL):
        mine = story.answers.of(policy=policy)
        found[policy, "let in"] = mine.admitted
        found[policy, Outcome.DENIED] = mine.denied
        found[policy, Outcome.FAIL_CLOSED] = len(mine.server_errors)
    return +found


def _told(prometheus: Prometheus, story: Story) -> Mapping[tuple[str, str], int]:
    """Return the same as Prometheus has it: the last value of each pod's counters, summed up."""
    seconds = (story.end_us - story.start_us) // 1_000_000 + timeouts.SCRAPED
    found: Counter[tuple[str, str]] = Counter()
    # Clients see nothing of what one in shadow would have done.
    counters = f'{DECISIONS}{{{OF_RELEASE}, policy!="{PLAN}"}}[{seconds}s]'
    for labels, value in prometheus.at(
        f"sum by (policy, outcome) (last_over_time({counters}))",
        story.end_us + timeouts.SCRAPED * 1_000_000,
    ):
        refused = labels["outcome"] in {Outcome.DENIED, Outcome.FAIL_CLOSED}
        outcome = labels["outcome"] if refused else "let in"
        found[labels["policy"], outcome] += round(value)
    return +found


def test_rules(story: Story, prometheus: Prometheus) -> None:
    """Prometheus evaluates all rules of the release without a fault."""
    del story
    groups = prometheus.ask("rules")["groups"]
    loaded = [rule for group in groups for rule in group["rules"]]
    assert Counter(rule["name"] for rule in loaded) == Counter(
        rule.get("record") or rule["alert"] for rule in RULES
    )
    assert {rule["name"]: rule.get("lastError") for rule in loaded if rule["health"] != "ok"} == {}


def test_alerts_fire(story: Story, prometheus: Prometheus) -> None:
    """What tells of an outage fires in it, that the state is lost after it, and nothing before."""
    fired = eventually(
        lambda: _fired(prometheus, story, STATE_LOST), within=timeouts.FIRES, what=STATE_LOST
    )
    early = {name for name, at_us in fired.items() if at_us < story.outage.start_us}
    assert not early, f"fired before the outage: {early}"
    # The outage went on until both had fired.
    assert {UNREACHABLE, DEGRADED} <= set(fired)


def _fired(prometheus: Prometheus, story: Story, wanted: str) -> Mapping[str, int]:
    """Return when each alert fired first, in microseconds; nothing before one of them has."""
    expression = f'ALERTS{{{OF_RELEASE}, alertstate="firing"}}'
    found = prometheus.over(expression, story.start_us, time.time_ns() // 1000)
    first = {labels["alertname"]: values[0][0] for labels, values in found}
    return first if wanted in first else {}


def test_panels(story: Story, prometheus: Prometheus, page: Page) -> None:
    """Every query of every board runs and has data, but for what did not happen; all are drawn."""
    page.views = draw(prometheus.ask, story.start_us, time.time_ns() // 1000)
    empty: dict[str, str] = {}
    for query in chain(boards.queries(), boards.moments()):
        expression = boards.filled(query.expression)
        found = prometheus.over(expression, story.start_us, story.end_us)
        if not any(values for _, values in found):
            empty[query.title] = f"{query}: {expression}"
    assert set(empty) <= set(NOT_HAPPENED), {
        title: asked for title, asked in empty.items() if title not in NOT_HAPPENED
    }


def test_traces(observed: Release, story: Story, prometheus: Prometheus) -> None:
    """A request is one trace of three spans; a denied one's is in its log line and an exemplar."""
    jaeger = Jaeger(observed.cluster)
    logged = {
        line["trace_id"]: line
        for file in story.watch.folder.glob("*.log")
        for line in map(_line, file.read_text().splitlines())
        if line.get("event") == names.LOG_DENIED
    }
    shown = prometheus.exemplars(
        f'{DECISIONS}{{{OF_RELEASE}, outcome="denied"}}',
        story.start_us,
        story.end_us,
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
    # Of checks that travel together, the first has the call in its trace.
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
    assert "error" not in server.tags, "a refusal is not an error"
    assert check.tags[names.ATTR_OUTCOME] == result
    assert check.tags[names.ATTR_POLICIES]
    assert policy in check.tags[names.ATTR_POLICIES]
    return server, check
