"""Display of the demonstration: live tables in a terminal, else the result as text or JSON."""

import io
import json
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, Self, TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from fleetlimit.demo.results import Counts, Results, percentile_ms
from fleetlimit.demo.summary import DemoSummary, PrincipalRow, ReplicaRow

WIDTH = 80
"""Columns. With three replicas and six callers, the result has 23 lines."""
_RECENT_RESULTS = 500
"""Latest results that the live percentiles are computed from."""
_REFRESH_PER_SECOND = 4
_BAR_WIDTH = 8
_GOOD, _BAD, _DIM = "bold green", "bold red", "dim"
_CAPTION = "free: token bucket; pro: fixed window; forger: a new key and address each time"


def live_tables(results: Results, principals: Sequence[PrincipalRow]) -> RenderableType:
    """Draw both tables from the results so far."""
    replicas = [
        ReplicaRow(name, counts.allowed, counts.denied, counts.errors, *_recent(counts))
        for name, counts in results.replicas.items()
    ]
    return Group(_replica_table(replicas), "", _principal_table(principals))


def _recent(counts: Counts) -> tuple[float, float]:
    recent = counts.latencies_s[-_RECENT_RESULTS:]
    return percentile_ms(recent, 50), percentile_ms(recent, 99)


def final_report(summary: DemoSummary) -> RenderableType:
    """Draw both tables and the summary."""
    return Group(
        _replica_table(summary.replicas),
        "",
        _principal_table(summary.principals),
        _summary_panel(summary),
    )


def _table(*left: str) -> Table:
    table = Table(
        width=WIDTH,
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
        border_style=_DIM,
        header_style="bold",
    )
    for name in left:
        table.add_column(name, no_wrap=True)
    return table


def _number(value: int, style: str = "") -> Text:
    return Text(f"{value:,}", style=style if value else _DIM)


def _replica_table(rows: Sequence[ReplicaRow]) -> Table:
    table = _table("replica")
    for name in ("allowed", "denied", "errors", "p50", "p99"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.name,
            _number(row.allowed, "green"),
            _number(row.denied, "yellow"),
            _number(row.errors, "red"),
            f"{row.p50_ms:.0f} ms",
            f"{row.p99_ms:.0f} ms",
        )
    return table


def _principal_table(rows: Sequence[PrincipalRow]) -> Table:
    table = _table("principal", "policy")
    table.caption, table.caption_justify = _CAPTION, "left"
    for name in ("sent", "denied", "allowed", "permitted"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", min_width=_BAR_WIDTH)
    for row in rows:
        table.add_row(
            row.name,
            Text.assemble((f"{row.tier or 'no key':7}", _DIM), row.limits),
            _number(row.sent),
            _number(row.denied, "yellow"),
            _number(row.admitted, "red" if row.overshoot else "green"),
            _number(row.permitted),
            _bar(row),
        )
    return table


def _bar(row: PrincipalRow) -> Text:
    if row.overshoot:
        return Text(f"+{row.overshoot:,}", _BAD)
    full = row.admitted * _BAR_WIDTH // max(1, row.permitted)
    return Text.assemble(("━" * full, "green"), ("━" * (_BAR_WIDTH - full), _DIM))


def _summary_panel(summary: DemoSummary) -> Panel:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(justify="right")
    grid.add_column(justify="right", style="bold")
    grid.add_column(style=_DIM)
    for name, value, remark in _summary_rows(summary):
        grid.add_row(name, value, remark)
    style = _GOOD if summary.holds else _BAD
    return Panel(grid, title=Text(headline(summary), style), border_style=style, width=WIDTH)


def headline(summary: DemoSummary) -> str:
    """Return the result in one line."""
    if summary.overshoot:
        return f"The limit does not hold: {summary.overshoot:,} too many"
    if not summary.admitted + summary.denied:
        return "Nothing was decided: every request failed"
    if not summary.tallies_agree:
        return "The limit holds, but the counts do not agree"
    return "The limit holds"


def _summary_rows(summary: DemoSummary) -> list[tuple[str, Text, str]]:
    tallies = summary.tallies()
    metrics, logs = tallies["metrics"], tallies["logs"]
    commands, sent = summary.commands_per_request, summary.requests
    return [
        (
            "admitted",
            _number(summary.admitted),
            f"of {summary.permitted:,} permitted in {summary.seconds:.1f} s; {sent:,} sent",
        ),
        (
            "overshoot",
            _good_if_zero(summary.overshoot),
            "requests admitted above a principal's limit",
        ),
        ("errors", _good_if_zero(summary.errors), "5xx responses and failed connections"),
        (
            "script calls",
            Text("none" if commands is None else f"{commands:.2f}"),
            "of the store for each request, heartbeats too",
        ),
        (
            "p50 / p99",
            Text(f"{summary.p50_ms:.0f} / {summary.p99_ms:.0f} ms"),
            "queueing: this machine runs all processes",
        ),
        (
            "counts",
            Text("agree", _GOOD) if summary.tallies_agree else Text("differ", _BAD),
            f"metrics: {metrics['allowed']:,} + {metrics['denied']:,}; logs: {logs['denied']:,}",
        ),
    ]


def _good_if_zero(value: int) -> Text:
    return Text(f"{value:,}", _BAD if value else _GOOD)


class View(AbstractContextManager["View"], Protocol):
    """Output of a run."""

    def stage(self, stage: str) -> None:
        """Show the current stage."""
        ...

    def update(self, results: Results, principals: Sequence[PrincipalRow]) -> None:
        """Show the results so far."""
        ...

    def finish(self, summary: DemoSummary) -> None:
        """Show the result of the run."""
        ...


class PlainView:
    """Output without a terminal: stages on one stream, the result on another.

    Args:
        out: Stream of the summary.
        notes: Stream of the stages.
        as_json: Write the result as JSON.
    """

    def __init__(self, out: TextIO, notes: TextIO, *, as_json: bool) -> None:
        self._out = out
        self._notes = notes
        self._as_json = as_json

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._out.flush()

    def stage(self, stage: str) -> None:
        """Write a line."""
        print(stage, file=self._notes, flush=True)

    def update(self, results: Results, principals: Sequence[PrincipalRow]) -> None:
        """Show nothing: a log file has no use for intermediate results."""

    def finish(self, summary: DemoSummary) -> None:
        """Write the summary."""
        if self._as_json:
            print(json.dumps(summary.as_json(), indent=2), file=self._out)
        else:
            Console(file=self._out, width=WIDTH).print(final_report(summary))


class LiveView:
    """Output in a terminal: a spinner while replicas start, then a progress bar and tables.

    Args:
        console: Console of a terminal.
        requests: Number of requests of the run.
    """

    def __init__(self, console: Console, requests: int) -> None:
        self._starting = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console
        )
        self._starting.add_task("")
        self._sending = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:,.0f}/s", justify="right"),
            TimeElapsedColumn(),
            console=console,
            expand=False,
        )
        self._sending.add_task("", total=requests, start=False, rate=0.0)
        # Refreshed by its thread, so that the spinner and the time move.
        self._live = Live(self._starting, console=console, refresh_per_second=_REFRESH_PER_SECOND)

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def stage(self, stage: str) -> None:
        """Show the stage."""
        for progress in (self._starting, self._sending):
            progress.update(progress.task_ids[0], description=stage)
        self._live.refresh()

    def update(self, results: Results, principals: Sequence[PrincipalRow]) -> None:
        """Redraw the progress bar and the tables."""
        task = self._sending.task_ids[0]
        self._sending.start_task(task)
        elapsed = self._sending.tasks[0].elapsed or 0.0
        completed = results.total.requests
        rate = completed / elapsed if elapsed else 0.0
        self._sending.update(task, completed=completed, rate=rate)
        self._live.update(Group(self._sending, live_tables(results, principals)), refresh=True)

    def finish(self, summary: DemoSummary) -> None:
        """Replace the progress bar and the tables by the summary."""
        self._live.update(final_report(summary), refresh=True)


def open_view(*, as_json: bool, requests: int, out: TextIO | None = None) -> View:
    """Return a live view if the output is a terminal and JSON is not requested."""
    out = out or sys.stdout
    console = Console(file=out, highlight=False)
    if as_json or not console.is_terminal:
        return PlainView(out, sys.stderr, as_json=as_json)
    return LiveView(console, requests)


def save_svg(file: Path, summary: DemoSummary) -> None:
    """Save a picture of the result as SVG."""
    console = Console(file=io.StringIO(), record=True, width=WIDTH, force_terminal=True)
    console.print(final_report(summary))
    console.save_svg(str(file), title="fleetlimit demo")
