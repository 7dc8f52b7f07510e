"""The demonstration's tables and its closing panel, drawn from counts or from the verdict."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from fleetlimit.server.demo.tally import Count, Tally, percentile_ms
from fleetlimit.server.demo.verdict import PrincipalRow, ReplicaRow, Verdict

WIDTH = 88
_RECENT = 500
"""Answers that the live latency is taken from."""
_BAR = 12
_GOOD, _BAD, _DIM = "bold green", "bold red", "dim"
_CAPTION = (
    "free: a token bucket; pro: a fixed window; forger: a new key and address each time, "
    "counted by its real address"
)


def while_running(tally: Tally, principals: Sequence[PrincipalRow]) -> RenderableType:
    """Draw both tables from what was counted so far."""
    replicas = [
        ReplicaRow(name, count.allowed, count.denied, count.errors, *_recent(count))
        for name, count in tally.replicas.items()
    ]
    return Group(_replicas(replicas), _principals(principals))


def _recent(count: Count) -> tuple[float, float]:
    recent = count.seconds[-_RECENT:]
    return percentile_ms(recent, 50), percentile_ms(recent, 99)


def at_the_end(verdict: Verdict) -> RenderableType:
    """Draw both tables and the verdict."""
    return Group(_replicas(verdict.replicas), _principals(verdict.principals), _closing(verdict))


def _table(*left: str) -> Table:
    table = Table(width=WIDTH, border_style=_DIM, header_style="bold")
    for name in left:
        table.add_column(name, no_wrap=True)
    return table


def _number(value: int, style: str = "") -> Text:
    return Text(f"{value:,}", style=style if value else _DIM)


def _replicas(rows: Sequence[ReplicaRow]) -> Table:
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


def _principals(rows: Sequence[PrincipalRow]) -> Table:
    table = _table("principal", "policy")
    table.caption = _CAPTION
    for name in ("sent", "denied", "allowed", "permitted"):
        table.add_column(name, justify="right")
    table.add_column("", min_width=_BAR)
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
    full = min(_BAR, row.admitted * _BAR // max(1, row.permitted))
    over = f" +{row.overshoot:,}" if row.overshoot else ""
    return Text.assemble(
        ("━" * full, "red" if row.overshoot else "green"), ("━" * (_BAR - full), _DIM), (over, _BAD)
    )


def _closing(verdict: Verdict) -> Panel:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(justify="right")
    grid.add_column(justify="right", style="bold")
    grid.add_column(style=_DIM)
    for name, value, remark in _lines(verdict):
        grid.add_row(name, value, remark)
    style = _GOOD if verdict.holds else _BAD
    return Panel(grid, title=Text(headline(verdict), style), border_style=style, width=WIDTH)


def headline(verdict: Verdict) -> str:
    """Return the verdict in one line."""
    if verdict.overshoot:
        return f"The limit does not hold: {verdict.overshoot:,} too many"
    if not verdict.admitted + verdict.denied:
        return "Nothing was decided: every request failed"
    if not verdict.tallies_agree:
        return "The limit holds, but the counts do not agree"
    return "The limit holds"


def _lines(verdict: Verdict) -> list[tuple[str, Text, str]]:
    tallies = verdict.tallies()
    metrics, logs = tallies["metrics"], tallies["logs"]
    told = f"{metrics['allowed']:,} + {metrics['denied']:,} in metrics, {logs['denied']:,} in logs"
    commands = verdict.commands_per_request
    return [
        (
            "permitted",
            _number(verdict.permitted),
            f"in {verdict.seconds:.1f} s on the store's clock",
        ),
        ("admitted", _number(verdict.admitted), f"of {verdict.requests:,} requests"),
        ("overshoot", _flag(verdict.overshoot), "beyond what a principal's policy permits"),
        ("5xx", _flag(verdict.errors), "and other failures"),
        (
            "Redis commands per request",
            Text("none" if commands is None else f"{commands:.2f}"),
            "calls of scripts, heartbeats included",
        ),
        (
            "p50 / p99",
            Text(f"{verdict.p50_ms:.0f} / {verdict.p99_ms:.0f} ms"),
            "seen by the sender, on this same machine",
        ),
        (
            "tallies",
            Text("agree", _GOOD) if verdict.tallies_agree else Text("differ", _BAD),
            told,
        ),
    ]


def _flag(value: int) -> Text:
    return Text(f"{value:,}", _BAD if value else _GOOD)
