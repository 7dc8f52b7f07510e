"""Tables of docs/performance.md and docs/capacity.md: `python benchmarks/documents.py`.

Each table stands between two comments and is computed from `results/summary.md`, so that documents
and results cannot differ.
"""

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import typer

from harness.lineup import (
    BARE,
    CHECK,
    DEPENDENCY,
    FLOOR,
    MIDDLEWARE,
    MIDDLEWARE_TRACED,
    PEERS,
    PREFETCHING,
    RAW,
    REFUSING,
    SERVED,
    TELEMETRY,
    THREE,
    TRACED,
    Contender,
    compiled,
)
from harness.results import ABOVE_BARE, CPU, OF_BARE
from harness.scenes import CONNECTIONS, TASKS

_ROOT: Final = Path(__file__).resolve().parents[1]
SUMMARY: Final = Path(__file__).parent / "results/summary.md"
_LABELS: Final = {
    BARE.name: "the app without a limiter",
    MIDDLEWARE.name: "**Fleetlimit, middleware**",
    compiled(MIDDLEWARE).name: "the same, *compiled*",
    DEPENDENCY.name: "**Fleetlimit, dependency**",
    compiled(DEPENDENCY).name: "the same, *compiled*",
    THREE.name: "middleware, three limits",
    FLOOR.name: "one round trip to the store, without a limiter",
}
_LOW_LOAD_LABELS: Final = _LABELS | {
    RAW.name: "a script on one raw connection, without a limiter",
    FLOOR.name: "the same by redis-py",
    PREFETCHING.name: "**Fleetlimit, `prefetch: auto`**",
    compiled(PREFETCHING).name: "the same, *compiled*",
    CHECK.name: "**Fleetlimit**",
    compiled(CHECK).name: "the same, *compiled*",
}
_TELEMETRY_LABELS: Final = dict(
    zip(
        (each.name for each in (*TELEMETRY, MIDDLEWARE_TRACED)),
        ("without the audit", "metrics twice", "log observer twice", "traces of 1 %"),
        strict=True,
    )
)
_UTILISATION: Final = 0.6


class Results:
    """The medians of the summary.

    Args:
        text: Text of `results/summary.md`.
    """

    def __init__(self, text: str) -> None:
        self._cells: dict[tuple[str, str, str], str] = {}
        self.runs: dict[str, str] = {}
        scene, figures = "", [""]
        for line in text.splitlines():
            if run := re.fullmatch(r"- (\S+), (`.*`): (.*)", line):
                self.runs |= dict.fromkeys(run[3].split(", "), f"{run[1]}, {run[2]}")
            elif head := re.match(r"## (\w+): ", line):
                scene = head[1]
            elif line.startswith("| |"):
                figures = [each.strip() for each in line.split("|")[2:-1]]
            elif line.startswith("| "):
                contender, *cells = (each.strip() for each in line.split("|")[1:-1])
                for figure, cell in zip(figures, cells, strict=True):
                    self._cells[scene, contender, figure] = cell

    def cell(self, scene: str, contender: str, figure: str) -> str:
        """Return a figure with its range as text; empty if it was not measured."""
        found = self._cells.get((scene, contender, figure), "")
        # A minus sign follows no digit.
        return re.sub(r"(?<=\d)-", " to ", found)

    def number(self, scene: str, contender: str, figure: str) -> float:
        """Return the median of a figure; NaN if it was not measured."""
        median = self.cell(scene, contender, figure).partition(" ")[0]
        return float(median.replace(",", "") or "nan")


def cost(results: Results) -> Iterator[str]:
    """Yield the table of costs: CPU and latency at half load, then the maximum rates."""
    half, same = "half", "same"
    rounds = results.number(half, BARE.name, "rounds")
    alike = min(results.number(half, each.name, "requests/s") for each in (FLOOR, *PEERS))
    bare = results.number(half, BARE.name, CPU)
    yield f"Medians of {rounds:.0f} rounds ({results.runs[half]}), with the range of the rounds."
    yield ""
    columns: dict[str, Callable[[str], str]] = {
        "half load": lambda name: f"{results.number(half, name, 'requests/s'):,.0f}/s",
        "CPU a request": lambda name: _us(results.number(half, name, CPU)),
        "of it the limiter": lambda name: _us(results.number(half, name, CPU) - bare),
        "p50": lambda name: _ms(results.cell(half, name, "p50 ms")),
        "p99": lambda name: _ms(results.cell(half, name, "p99 ms")),
        f"CPU, all at {alike:,.0f}/s": lambda name: _us(results.number(same, name, CPU)),
        f"p50, all at {alike:,.0f}/s": lambda name: _ms(results.cell(same, name, "p50 ms")),
        f"p99, all at {alike:,.0f}/s": lambda name: _ms(results.cell(same, name, "p99 ms")),
        "maximum, admitted": lambda name: results.cell("allow", name, OF_BARE),
        "maximum, rejected": lambda name: results.cell("deny", name, OF_BARE),
    }
    by_cpu = sorted(PEERS, key=lambda peer: results.number(half, peer.name, CPU))
    names = [name for name in _LABELS if name not in {THREE.name, FLOOR.name}]
    rows = [
        [_LABELS.get(name, name), *(cell(name) for cell in columns.values())]
        for name in (*names, FLOOR.name, *(peer.name for peer in by_cpu))
        if results.cell(half, name, CPU)
    ]
    # A run without compiled wheel or percentiles leaves these rows and columns out.
    used = [at for at in range(len(columns) + 1) if any(row[at] for row in rows)]
    yield from _table([["", *columns], *rows], used)


def notes(results: Results) -> Iterator[str]:
    """Yield the remarks on the table of costs."""
    deny, allow, half = (
        results.number(scene, MIDDLEWARE.name, "commands/request")
        for scene in ("deny", "allow", "half")
    )
    refusing = results.number("deny", REFUSING.name, OF_BARE)
    three, one = (results.number("allow", each.name, OF_BARE) for each in (THREE, MIDDLEWARE))
    traced = results.number("traces", TRACED.name, f"of {SERVED.name}")
    yield (
        "- Rejecting a request in the middleware is cheaper than serving it, and needs almost no "
        f"Redis calls ({deny:.4f} per request). A middleware without a limiter, which sends every "
        f"request the same ready response, reaches {refusing:.2f} of the app's maximum rate."
    )
    yield (
        f"- Concurrent admitted requests share script calls: {half:.2f} calls per request at half "
        f"load, {allow:.2f} at the maximum rate, one call for a request that arrives alone."
    )
    yield (
        f"- A policy with three limits reaches {three / one:.2f} of the throughput of one limit. "
        "With 1 % of requests traced, `fleetlimit serve` reaches "
        f"{traced:.2f} of its throughput without traces."
    )


def curve(results: Results) -> Iterator[str]:
    """Yield the CPU of the limiter in a request, by the number of connections."""
    labels = [f"{count} connections" for count in CONNECTIONS]
    rows = [["CPU of the limiter", "1 connection", *labels[1:]]]
    for name in (each.name for each in (RAW, FLOOR, *_both(MIDDLEWARE, DEPENDENCY), *PEERS)):
        cells = [results.number("curve", f"{name}, {label}", ABOVE_BARE) for label in labels]
        if not all(map(math.isnan, cells)):
            rows.append([_LOW_LOAD_LABELS.get(name, name), *map(_us, cells)])
    yield from _dated_table(results, "curve", rows)


def busy(results: Results) -> Iterator[str]:
    """Yield the cost of a request of few callers, with and without a prefetch."""
    rows = [["", "CPU of the limiter", "store calls a request", "p50", "p99"]]
    for name in (each.name for each in (FLOOR, *_both(MIDDLEWARE, PREFETCHING), *PEERS)):
        if results.cell("busy", name, CPU):
            calls = results.number("busy", name, "commands/request")
            p50, p99 = (results.cell("busy", name, each) for each in ("p50 ms", "p99 ms"))
            limiter = _us(results.number("busy", name, ABOVE_BARE))
            label = _LABELS.get(name) or _LOW_LOAD_LABELS.get(name, name)
            rows.append([label, limiter, f"{calls:.2f}", _ms(p50), _ms(p99)])
    yield from _dated_table(results, "busy", rows)


def lonely(results: Results) -> Iterator[str]:
    """Yield the CPU of a check that is alone, and of one of four."""
    labels = [f"{count} tasks" for count in TASKS]
    rows = [["CPU of a check", "one at a time", "above the raw connection"]]
    rows[0] += ["four at a time", "above the raw connection"]
    for name in (each.name for each in (RAW, FLOOR, CHECK, compiled(CHECK), *PEERS)):
        cells = [
            _us(results.number("lonely", f"{name}, {label}", figure))
            for label in labels
            for figure in ("us CPU/check", f"above {RAW.name}")
        ]
        if any(cells):
            rows.append([_LOW_LOAD_LABELS.get(name, name), *cells])
    yield from _dated_table(results, "lonely", rows)


def telemetry(results: Results) -> Iterator[str]:
    """Yield what parts of the telemetry add to a request."""
    above = f"above {MIDDLEWARE.name}"
    limiter = results.number("telemetry", MIDDLEWARE.name, ABOVE_BARE)
    rows = [["", "CPU", "part of the limiter's CPU"]]
    rows.append(["the limiter, in a request", _us(limiter), ""])
    for name, label in _TELEMETRY_LABELS.items():
        more = results.number("telemetry", name, above)
        rows.append([label, _signed(more, " µs"), _signed(100 * more / limiter, " %")])
    yield from _dated_table(results, "telemetry", rows)


def app_cpu(results: Results) -> Iterator[str]:
    """Yield the CPU of a request at half load and at the maximum rate."""
    columns = ("", "at half load", "of it the limiter", "at the maximum rate", "of it the limiter")
    rows = [list(columns)]
    for name, label in _LABELS.items():
        row = [label]
        for scene in ("half", "allow"):
            cpu, bare = (results.number(scene, each, CPU) for each in (name, BARE.name))
            row += [_us(cpu), _us(cpu - bare)]
        rows.append(row)
    rejected = results.number("deny", MIDDLEWARE.name, CPU)
    rows.append(["rejected by the middleware", "", "", _us(rejected), ""])
    yield from _table([row for row in rows if any(row[1:])], range(len(columns)))


def pods(results: Results) -> Iterator[str]:
    """Yield the pods, store cores and network of a load, by the formula of the page."""
    app, limited = (results.number("half", each.name, CPU) for each in (BARE, MIDDLEWARE))
    store = _store_us(results)
    network = results.number("store", "1 checks a call", "bytes/check")
    rows = [["requests/s", "pods of one core", "of which without a limiter"]]
    rows[0] += ["store cores", "network of the store"]
    for rate in (1_000, 10_000, 100_000, 1_000_000):
        cores = [rate * each / 1e6 / _UTILISATION for each in (limited, app, store)]
        rows.append([f"{rate:,}", *map(_cores, cores), f"{_cores(rate * network / 1e6)} MB/s"])
    yield from _table(rows, range(len(rows[0])))
    yield ""
    yield (
        f"For 10,000 requests/s: 10,000/s x {limited:.0f} µs / {_UTILISATION} = "
        f"{_cores(1e4 * limited / 1e6 / _UTILISATION)} pods, and 10,000/s x {store:.0f} µs / "
        f"{_UTILISATION} = {_cores(1e4 * store / 1e6 / _UTILISATION)} cores of the store."
    )
    yield ""
    calls = results.number("half", MIDDLEWARE.name, "commands/request")
    busy = results.number("store", "1 checks a call", "store us/check")
    yield (
        f"One replica at half load makes {calls:.2f} store calls for each request, to a store that "
        f"is mostly idle. A busy store takes {busy:.0f} µs"
    )
    yield (
        "for a call, because it handles several connections in one iteration, so the store cores "
        "above are an upper bound."
    )


def _store_us(results: Results) -> float:
    """Return the store's CPU for a request at half load."""
    busy, rate = (
        results.number("half", MIDDLEWARE.name, each) for each in ("store busy", "requests/s")
    )
    return 1e6 * busy / rate


def _cores(value: float) -> str:
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"  # noqa: PLR2004 - readable


def _us(value: float) -> str:
    return "" if math.isnan(value) or not value else f"{value:.0f} µs"


def _signed(value: float, unit: str) -> str:
    return f"{round(value) or 0:+d}{unit}"


def _ms(cell: str) -> str:
    return cell and f"{cell} ms"


def _both(*contenders: Contender) -> Iterator[Contender]:
    """Yield each contender, followed by its compiled form."""
    for contender in contenders:
        yield from (contender, compiled(contender))


def _dated_table(results: Results, scene: str, rows: list[list[str]]) -> Iterator[str]:
    """Yield a table of a scene's medians, after the date and the command of the run."""
    yield f"Medians ({results.runs[scene]})."
    yield ""
    yield from _table(rows, range(len(rows[0])))


def _table(rows: list[list[str]], columns: list[int] | range) -> Iterator[str]:
    for number, row in enumerate(rows):
        yield f"|{'|'.join(f' {row[at]} ' if row[at] else ' ' for at in columns)}|"
        if not number:
            yield f"|{'---|' * len(columns)}"


_BLOCKS: Final = {
    "cost": cost,
    "curve": curve,
    "busy": busy,
    "lonely": lonely,
    "telemetry": telemetry,
    "notes": notes,
    "app CPU": app_cpu,
    "pods": pods,
}
PAGES: Final = (_ROOT / "docs/performance.md", _ROOT / "docs/capacity.md")


def document(page: str, results: Results) -> str:
    """Return a page with the tables of these results."""
    for name, lines in _BLOCKS.items():
        start, end = f"<!-- benchmarks: {name} -->\n", "<!-- end -->"
        before, found, rest = page.partition(start)
        if found:
            page = before + start + "\n".join(lines(results)) + f"\n{end}" + rest.partition(end)[2]
    return page


def main() -> None:
    """Write the tables of both pages."""
    results = Results(SUMMARY.read_text("utf-8"))
    for page in PAGES:
        page.write_text(document(page.read_text("utf-8"), results), "utf-8")


if __name__ == "__main__":
    typer.run(main)
