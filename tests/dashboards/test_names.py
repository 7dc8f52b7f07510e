"""Every name in a query is one that is exported: metrics, labels, outcomes, fields of the log."""

import re

import foreign
import log_queries
from fleetlimit.core.decision import Outcome
from fleetlimit.telemetry import names
from fleetlimit.telemetry.logs.denial_log import DenialLog
from support import rules
from support.boards import BOARDS, Query, kept_labels, moments, panels, queries, selectors, words
from support.telemetry import Lines, ManualClock, decision_event, policy_result

METRICS = {series: metric for metric in names.METRICS for series in metric.series}
OF_THE_SCRAPE = {"namespace", "job", "pod", "instance"}
VALUES = {
    names.OUTCOME: set(names.OUTCOMES),
    names.SOURCE: set(names.SOURCES),
    "le": {str(bound) for bound in names.CHECK_BUCKETS},
}
LANGUAGE = {
    *("and", "by", "or", "on", "group_left", "absent"),
    *("sum", "max", "min", "count", "sort_desc"),
    *("rate", "increase", "changes", "histogram_quantile"),
    *("max_over_time", "sum_over_time", "avg_over_time"),
    *("clamp_min", "label_replace", "e"),
}
"""Words of PromQL that queries use; `e` is that of 1e-9."""

OF_BOARDS = [*queries(), *moments()]
ASKED: list[Query | rules.Asked] = [*OF_BOARDS, *rules.asked()]


def labels_of(name: str) -> set[str]:
    """Return the labels that the series of a name have beside those of the scrape."""
    if name in rules.RECORDED:
        return kept_labels(rules.RECORDED[name])
    if name in foreign.NAMES:
        return {"role"}
    return {*METRICS[name].labels, *(("le",) if name.endswith("_bucket") else ())}


def test_every_metric_is_exported() -> None:
    """A query asks for metrics of `telemetry.names`, of a short list of others, or recorded."""
    assert ASKED
    for query in ASKED:
        asked = {name for name, _ in selectors(query.expression)}
        assert asked <= set(METRICS) | foreign.NAMES | set(rules.RECORDED), str(query)


def test_nothing_is_asked_without_a_selector() -> None:
    """Every name of a metric is followed by its matchers; all else are words of the language."""
    for query in ASKED:
        assert words(query.expression) <= LANGUAGE, str(query)


def test_every_foreign_metric_is_asked_for() -> None:
    """The list of metrics that are not Fleetlimit's holds no more than is needed."""
    asked = {name for each in ASKED for name, _ in selectors(each.expression)}
    assert asked - set(METRICS) - set(rules.RECORDED) == foreign.NAMES


def test_every_label_is_exported() -> None:
    """A label that is matched or kept is one of the metric's, or of the scrape."""
    for query in ASKED:
        known = {*OF_THE_SCRAPE, "le"}
        for name, matchers in selectors(query.expression):
            labels = labels_of(name)
            assert set(matchers) <= labels | OF_THE_SCRAPE, (str(query), name)
            known |= labels
        assert kept_labels(query.expression) <= known, str(query)


def test_every_value_is_exported() -> None:
    """An outcome or a source that is matched is one that there is."""
    matched = [
        (label, set(value.split("|")))
        for query in ASKED
        for _, matchers in selectors(query.expression)
        for label, (_, value) in matchers.items()
        if label in VALUES
    ]
    assert {label for label, _ in matched} == set(VALUES)
    for label, values in matched:
        assert values <= VALUES[label]


def test_every_legend_names_labels_that_are_kept() -> None:
    """The name of a series, or the text of a mark, is made of labels that the query keeps."""
    for query in OF_BOARDS:
        kept = kept_labels(query.expression)
        # A series that is not aggregated has the labels of its scrape.
        kept |= OF_THE_SCRAPE if query.target.get("useValueForTime") else set()
        texts = [query.target.get(key, "") for key in ("legendFormat", "textFormat", "titleFormat")]
        assert set(re.findall(r"\{\{(\w+)\}\}", " ".join(texts))) <= kept, str(query)


def test_no_identity_is_in_a_metric() -> None:
    """No query of a metric knows callers; who they are is asked of the logs alone."""
    assert not any(log_queries.CALLER in kept_labels(each.expression) for each in queries())
    assert {each.title for each in queries("loki")} == {"Denied most", "Would be denied most"}


def test_the_fields_that_are_asked_for_are_in_the_log() -> None:
    """Lines of denials have the event, the policy and the caller by which the logs are asked."""
    lines = Lines()
    log = DenialLog(ManualClock(), lines.logger, lines_per_window=1)
    for _ in range(3):
        log.on_event(decision_event(Outcome.DENIED))
        log.on_event(
            decision_event(Outcome.SHADOW_DENIED, policy_result(outcome=Outcome.SHADOW_DENIED))
        )
    log.close()
    for event in (names.LOG_DENIED, names.LOG_SHADOW_DENIED):
        asked = re.search(rf"{log_queries.EVENT}=~`([^`]*)`", log_queries.denied_most(event))
        assert asked
        written = [
            line for line in lines.written if re.fullmatch(asked.group(1), line[log_queries.EVENT])
        ]
        assert [line.get(log_queries.HELD_BACK) for line in written] == [None, 2]
        for line in written:
            assert (line[names.POLICY], line[log_queries.CALLER]) == ("default", "s1")


def test_every_panel_is_named_in_its_board_by_the_advice() -> None:
    """What the advice sends the reader to, in italics, is a panel, a row or a board."""
    titles = {board["title"].removeprefix("Fleetlimit / ") for board in BOARDS.values()}
    for board in BOARDS.values():
        titles |= {panel["title"] for panel in board["panels"]}
    for board in BOARDS.values():
        (text,) = [each["options"]["content"] for each in panels(board) if each["type"] == "text"]
        named = set(re.findall(r"(?<!\*)\*([^*]+)\*(?!\*)", text))
        assert named <= titles
