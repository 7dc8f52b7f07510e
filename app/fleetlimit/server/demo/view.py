"""Shows the demonstration: live in a terminal, its result elsewhere, or JSON for scripts."""

import io
import json
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, Self, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fleetlimit.server.demo.tables import WIDTH, at_the_end, while_running
from fleetlimit.server.demo.tally import Tally
from fleetlimit.server.demo.verdict import PrincipalRow, Verdict


class View(AbstractContextManager["View"], Protocol):
    """Who is shown the demonstration."""

    def tell(self, stage: str) -> None:
        """Say what is being done."""
        ...

    def show(self, tally: Tally, principals: Sequence[PrincipalRow]) -> None:
        """Show the answers so far."""
        ...

    def end(self, verdict: Verdict) -> None:
        """Show the result."""
        ...


class PlainView:
    """Says what is being done on one stream, and the result on another.

    Args:
        out: Where the result goes.
        notes: Where the rest goes.
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

    def tell(self, stage: str) -> None:
        """Write a line."""
        print(stage, file=self._notes, flush=True)

    def show(self, tally: Tally, principals: Sequence[PrincipalRow]) -> None:
        """Show nothing: a log is no place for what changes."""

    def end(self, verdict: Verdict) -> None:
        """Write the result."""
        if self._as_json:
            print(json.dumps(verdict.as_json(), indent=2), file=self._out)
        else:
            Console(file=self._out, width=WIDTH).print(at_the_end(verdict))


class LiveView:
    """A progress bar and tables that change in place.

    Args:
        console: A terminal.
        requests: Requests to come.
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

    def tell(self, stage: str) -> None:
        """Say it beside the progress bar."""
        self._progress.update(self._task, description=stage)
        self._live.refresh()

    def show(self, tally: Tally, principals: Sequence[PrincipalRow]) -> None:
        """Draw the bar and the tables anew."""
        self._progress.start_task(self._task)
        elapsed = self._progress.tasks[0].elapsed or 0.0
        answers = tally.total.answers
        rate = answers / elapsed if elapsed else 0.0
        self._progress.update(self._task, completed=answers, rate=rate)
        self._live.update(Group(self._progress, while_running(tally, principals)), refresh=True)

    def end(self, verdict: Verdict) -> None:
        """Put the result in the place of what moved."""
        self._live.update(at_the_end(verdict), refresh=True)


def open_view(*, as_json: bool, requests: int, out: TextIO | None = None) -> View:
    """Return the view that fits: live when the output is a terminal, and JSON was not asked for."""
    out = out or sys.stdout
    console = Console(file=out, highlight=False)
    if as_json or not console.is_terminal:
        return PlainView(out, sys.stderr, as_json=as_json)
    return LiveView(console, requests)


def save_picture(file: Path, verdict: Verdict) -> None:
    """Save a picture (SVG) of the result."""
    console = Console(file=io.StringIO(), record=True, width=WIDTH, force_terminal=True)
    console.print(at_the_end(verdict))
    console.save_svg(str(file), title="fleetlimit demo")
