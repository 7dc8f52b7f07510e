"""Display of the demonstration: headline, JSON, plain text and live tables."""

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console, Group

from fleetlimit.demo.display import (
    LiveView,
    PlainView,
    View,
    final_report,
    headline,
    live_tables,
    open_view,
    save_svg,
)
from fleetlimit.demo.results import Result, Results
from fleetlimit.demo.store_stats import StoreStats
from fleetlimit.demo.summary import ReplicaReport, principal_rows, summarize
from support.demo import CALLERS, START_US, caller, results_of, summary_of


@pytest.mark.parametrize(
    ("results", "lost", "expected"),
    [
        (results_of(200, 429), 0, "The limit holds"),
        (results_of(200, 200, 200, 200), 0, "The limit does not hold: 1 too many"),
        (results_of(429, 429), 1, "The limit holds, but the counts do not agree"),
        (results_of(503), 0, "Nothing was decided: every request failed"),
    ],
)
def test_headline_names_the_most_important_failure(
    results: Results, lost: int, expected: str
) -> None:
    """Overshoot goes before counts that differ, and both before success."""
    assert headline(summary_of(results, lost_in_log=lost)) == expected


def test_json_output_has_nothing_but_the_result() -> None:
    """Stages go to another stream, so that a script can parse the output."""
    out, notes = io.StringIO(), io.StringIO()
    summary = summary_of(results_of(200, 429))
    with PlainView(out, notes, as_json=True) as view:
        view.stage("starting")
        _show(view, results_of(200))
        view.finish(summary)
    assert json.loads(out.getvalue()) == summary.as_json()
    assert notes.getvalue() == "starting\n"


@pytest.mark.parametrize("calls", [7, None])
def test_plain_output_has_the_result_once(calls: int | None) -> None:
    """The tables and the summary are written once, without colours."""
    out = io.StringIO()
    summary = summary_of(results_of(200, 200, 200, 200, 429), calls=calls)
    with PlainView(out, io.StringIO(), as_json=False) as view:
        view.finish(summary)
    text = out.getvalue()
    assert "\x1b" not in text
    assert "The limit does not hold: 1 too many" in text
    assert text.count("replica-1") == 1
    assert "3/hour" in text
    assert "+1" in text
    assert ("none" if calls is None else "1.40") in text


def test_live_output_updates_the_tables() -> None:
    """The progress bar and both tables are redrawn, and the summary replaces them."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100, height=50)
    with LiveView(console, 5) as view:
        view.stage("sending 5 requests")
        _show(view, results_of(200, 429))
        _show(view, results_of(200, 429, 200))
        view.finish(summary_of(results_of(200, 429, 200)))
    text = screen.getvalue()
    for part in ("sending 5 requests", "replica-2", "alice", "The limit holds"):
        assert part in text


def test_screens_fit_a_terminal_of_80_by_24() -> None:
    """The tables of a run, and the result of a default run, leave a line for the prompt."""
    callers = [caller(name, 10_000) for name in ("mallory", "alice", "bob", "carol", "dave")]
    callers.append(caller("forger", 10_000, tier=""))
    results = Results(["replica-1", "replica-2", "replica-3"], [each.name for each in callers])
    for number in range(6_000):
        results.add(Result(f"replica-{number % 3 + 1}", callers[number % 6].name, 200, 1.234))
    rows = principal_rows(callers, results, START_US, START_US + 1)
    reports = {each: ReplicaReport(2_000, 0, 0) for each in results.replicas}
    stats = StoreStats(START_US, 0), StoreStats(START_US + 100_000_000, 200_000)
    result = summarize(callers, results, *stats, reports)
    for shown in (final_report(result), Group("progress", live_tables(results, rows))):
        out = io.StringIO()
        Console(file=out, width=80, height=24).print(shown)
        lines = out.getvalue().splitlines()
        assert max(map(len, lines)) <= 80
        assert len(lines) <= 23
        assert "…" not in out.getvalue()


def test_live_output_shows_the_time_since_the_start() -> None:
    """A spinner with the time moves while the replicas start, and a bar counts the requests."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80, height=24)
    with LiveView(console, 5) as view:
        view.stage("replicas ready: 0 of 3")
        started = screen.getvalue()
        view.stage("sending 5 requests")
        _show(view, results_of(200, 429))
    assert "replicas ready: 0 of 3" in started
    assert re.search(r"0:00:0\d", started)
    assert "2/5" not in started
    assert "2/5" in screen.getvalue()


def test_result_explains_its_latencies() -> None:
    """One machine runs the load, the replicas and the store: requests wait for its cores."""
    out = io.StringIO()
    with PlainView(out, io.StringIO(), as_json=False) as view:
        view.finish(summary_of(results_of(200)))
    (line,) = [each for each in out.getvalue().splitlines() if "p50 / p99" in each]
    assert "this machine runs all processes" in line


def test_open_view_writes_plain_text_to_a_file() -> None:
    """A file gets the summary alone."""
    assert isinstance(open_view(as_json=False, requests=1, out=io.StringIO()), PlainView)


def test_open_view_is_live_in_a_terminal_unless_json_is_requested() -> None:
    """A script may run in a terminal too."""
    terminal = _Terminal()
    assert isinstance(open_view(as_json=False, requests=1, out=terminal), LiveView)
    assert isinstance(open_view(as_json=True, requests=1, out=terminal), PlainView)


def _show(view: View, results: Results) -> None:
    view.update(results, principal_rows(CALLERS, results, START_US, START_US + 1))


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_save_svg_writes_the_result(tmp_path: Path) -> None:
    """The picture is an SVG with the headline, small enough for a README."""
    file = tmp_path / "demo.svg"
    save_svg(file, summary_of(results_of(200, 429)))
    text = file.read_text(encoding="utf-8")
    assert text.startswith("<svg")
    assert "The&#160;limit&#160;holds" in text
    assert len(text) < 200_000
