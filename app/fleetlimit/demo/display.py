"""Display of the demonstration: live tables in a terminal, else the result as text or JSON."""

import io
import json
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, Self, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from fleetlimit.demo.results import Counts, Results, percentile_ms
from fleetlimit.demo.summary import DemoSummary, PrincipalRow, ReplicaRow

WIDTH = 88
_RECENT_RESULTS = 500
"""Latest results that the live percentiles are computed from."""
_BAR_WIDTH = 12
_GOOD, _BAD, _DIM = "bold green", "bold red", "dim"
_CAPTION = (
    "free: token bucket; pro: fixed window; forger: a new key and address in every request, "
    "limited by its real address"
)


def live_tables(results: Results, principals: Sequence[PrincipalRow]) -> RenderableType:
    """Draw both tables from the results so far."""
    replicas = [
        ReplicaRow(name, counts.allowed, counts.denied, counts.errors, *_recent(counts))
        for name, counts in results.replicas.items()
    ]
    return Group(_replica_table(replicas), _principal_table(principals))


def _recent(counts: Counts) -> tuple[float, float]:
    recent = counts.latencies_s[-_RECENT_RESULTS:]
    return percentile_ms(recent, 50), percentile_ms(recent, 99)


def final_report(summary: DemoSummary) -> RenderableType:
    """Draw both tables and the summary."""
    return Group(
        _replica_table(summary.replicas),
        _principal_table(summary.principals),
        _summary_panel(summary),
    )


def _table(*left: str) -> Table:
    table = Table(width=WIDTH, border_style=_DIM, header_style="bold")
    for name in left:
        table.add_column(name, no_wrap=True)
    return table


def _number(value: int, style: str = "") -> Text:
    return Text(f"{value:,}", style=style if value else _DIM)


def _replica_table(rows: Sequence[ReplicaRow]) -> Table:
    table = _table("replica")
    for name in ("allowed", "denied", "errors", "p50", "p99"):
        table.add_column(name, justify="right")
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
    table.caption = _CAPTION
    for name in ("sent", "denied", "allowed", "permitted"):
        table.add_column(name, justify="right")
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
    full = min(_BAR_WIDTH, row.admitted * _BAR_WIDTH // max(1, row.permitted))
    over = f" +{row.overshoot:,}" if row.overshoot else ""
    return Text.assemble(
        ("━" * full, "red" if row.overshoot else "green"),
        ("━" * (_BAR_WIDTH - full), _DIM),
        (over, _BAD),
    )


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
    commands = summary.commands_per_request
    return [
        (
            "permitted",
            _number(summary.permitted),
            f"requests within the limits, in {summary.seconds:.1f} s",
        ),
        ("admitted", _number(summary.admitted), f"of {summary.requests:,} requests sent"),
        (
            "overshoot",
            _good_if_zero(summary.overshoot),
            "requests admitted above a principal's limit",
        ),
        ("errors", _good_if_zero(summary.errors), "5xx responses and failed connections"),
        (
            "Redis commands per request",
            Text("none" if commands is None else f"{commands:.2f}"),
            "script calls, heartbeats included",
        ),
        (
            "p50 / p99",
            Text(f"{summary.p50_ms:.0f} / {summary.p99_ms:.0f} ms"),
            "latency at the client, on the same machine",
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
    """Output in a terminal: a progress bar and tables that are redrawn in place.

    Args:
        console: Console of a terminal.
        requests: Number of requests of the run.
    """

    def __init__(self, console: Console, requests: int) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:,.0f}/s", justify="right"),
            TimeElapsedColumn(),
            console=console,
            expand=False,
        )
        self._task = self._progress.add_task("", total=requests, start=False, rate=0.0)
        self._live = Live(self._progress, console=console, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def stage(self, stage: str) -> None:
        """Show the stage beside the progress bar."""
        self._progress.update(self._task, description=stage)
        self._live.refresh()

    def update(self, results: Results, principals: Sequence[PrincipalRow]) -> None:
        """Redraw the progress bar and the tables."""
        self._progress.start_task(self._task)
        elapsed = self._progress.tasks[0].elapsed or 0.0
        completed = results.total.requests
        rate = completed / elapsed if elapsed else 0.0
        self._progress.update(self._task, completed=completed, rate=rate)
        self._live.update(Group(self._progress, live_tables(results, principals)), refresh=True)

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
