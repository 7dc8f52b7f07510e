"""Metrics, labels, label values and log fields in the queries exist in Fleetlimit."""

import re

import throttled
from fleetlimit.core.decision import Outcome
from fleetlimit.telemetry import names
from fleetlimit.telemetry.logs.denial_log import DenialLog
from fleetlimit.testing import ManualClock
from support import rules
from support.boards import BOARDS, Query, kept_labels, moments, panels, queries, selectors, words
from support.telemetry import Lines, decision_event, policy_result

METRICS = {series: metric for metric in names.METRICS for series in metric.series}
SCRAPE_LABELS = {"namespace", "job", "pod", "instance"}
FOREIGN = {
    "up",
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "redis_up",
    "redis_instance_info",
    "redis_memory_used_bytes",
    "redis_memory_max_bytes",
    "redis_commands_processed_total",
    "redis_evicted_keys_total",
    "redis_db_keys",
    "redis_connected_clients",
}
"""Metrics of Prometheus, of its Python client and of redis_exporter."""
VALUES = {
    names.OUTCOME: set(names.OUTCOMES),
    names.SOURCE: set(names.SOURCES),
    "le": {str(bound) for bound in names.CHECK_BUCKETS},
}
LANGUAGE = {
    *("and", "bool", "by", "or", "unless", "on", "group_left", "absent"),
    *("sum", "max", "min", "count", "sort_desc"),
    *("rate", "increase", "changes", "histogram_quantile"),
    *("max_over_time", "sum_over_time", "avg_over_time"),
    *("clamp_min", "label_replace", "e"),
}
"""Words of PromQL in the queries; `e` is from 1e-9."""

BOARD_QUERIES = [*queries(), *moments()]
ALL_QUERIES: list[Query | rules.RuleQuery] = [*BOARD_QUERIES, *rules.queries()]


def labels_of(name: str) -> set[str]:
    """Return the labels of a series, without the scrape's."""
    if name in rules.RECORDED:
        return kept_labels(rules.RECORDED[name])
    if name in FOREIGN:
        return {"role"}
    return {*METRICS[name].labels, *(("le",) if name.endswith("_bucket") else ())}


def test_metrics_exist() -> None:
    """A query selects a metric of `telemetry.names`, a recorded series or a foreign metric."""
    assert ALL_QUERIES
    for query in ALL_QUERIES:
        selected = {name for name, _ in selectors(query.expression)}
        assert selected <= set(METRICS) | FOREIGN | set(rules.RECORDED), str(query)


def test_metrics_have_matchers() -> None:
    """Every metric has matchers; all other words are PromQL's."""
    for query in ALL_QUERIES:
        assert words(query.expression) <= LANGUAGE, str(query)


def test_foreign_metrics_are_used() -> None:
    """The list of foreign metrics has no unused entry."""
    selected = {name for each in ALL_QUERIES for name, _ in selectors(each.expression)}
    assert selected - set(METRICS) - set(rules.RECORDED) == FOREIGN


def test_labels_exist() -> None:
    """A matched or kept label is one of the metric or of the scrape."""
    for query in ALL_QUERIES:
        known = {*SCRAPE_LABELS, "le"}
        for name, matchers in selectors(query.expression):
            labels = labels_of(name)
            assert set(matchers) <= labels | SCRAPE_LABELS, (str(query), name)
            known |= labels
        assert kept_labels(query.expression) <= known, str(query)


def test_label_values_exist() -> None:
    """A matched outcome, source or bucket bound exists."""
    matched = [
        (label, set(value.split("|")))
        for query in ALL_QUERIES
        for _, matchers in selectors(query.expression)
        for label, (_, value) in matchers.items()
        if label in VALUES
    ]
    assert {label for label, _ in matched} == set(VALUES)
    for label, values in matched:
        assert values <= VALUES[label]


def test_legends_use_kept_labels() -> None:
    """Legends and annotation texts contain only labels that the query keeps."""
    for query in BOARD_QUERIES:
        kept = kept_labels(query.expression)
        # Series that are not aggregated have the scrape's labels.
        kept |= SCRAPE_LABELS if query.target.get("useValueForTime") else set()
        texts = [query.target.get(key, "") for key in ("legendFormat", "textFormat", "titleFormat")]
        assert set(re.findall(r"\{\{(\w+)\}\}", " ".join(texts))) <= kept, str(query)


def test_callers_come_from_logs_only() -> None:
    """No PromQL query has a caller label; only the two Loki panels show callers."""
    assert not any(throttled.CALLER in kept_labels(each.expression) for each in queries())
    assert {each.title for each in queries("loki")} == {
        "Most denied callers",
        "Most shadow-denied callers",
    }


def test_log_fields_exist() -> None:
    """The log lines of denials have the event, policy, caller and count that LogQL reads."""
    lines = Lines()
    log = DenialLog(ManualClock(), lines.logger, lines_per_window=1)
    for _ in range(3):
        log.on_event(decision_event(Outcome.DENIED))
        log.on_event(
            decision_event(Outcome.SHADOW_DENIED, policy_result(outcome=Outcome.SHADOW_DENIED))
        )
    log.close()
    for event in (names.LOG_DENIED, names.LOG_SHADOW_DENIED):
        events = re.search(rf"{throttled.EVENT}=~`([^`]*)`", throttled.most_denied(event))
        assert events
        written = [
            line for line in lines.written if re.fullmatch(events.group(1), line[throttled.EVENT])
        ]
        assert [line.get(throttled.SUPPRESSED) for line in written] == [None, 2]
        for line in written:
            assert (line[names.POLICY], line[throttled.CALLER]) == ("default", "s1")


def test_advice_names_existing_panels() -> None:
    """Emphasised names in the advice are panels, columns, rows or dashboards."""
    titles = {board["title"].removeprefix("Fleetlimit / ") for board in BOARDS.values()}
    for board in BOARDS.values():
        titles |= {each["title"] for each in (*board["panels"], *panels(board))}
        for table in (each for each in panels(board) if each["type"] == "table"):
            titles |= set(table["transformations"][-1]["options"]["renameByName"].values())
    for board in BOARDS.values():
        (text,) = [each["options"]["content"] for each in panels(board) if each["type"] == "text"]
        named = set(re.findall(r"\*+([^*]+)\*+", text))
        assert named
        assert named <= titles
