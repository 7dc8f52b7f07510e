"""Shows a run of the kind suite on one page: what held, what was measured, what it looked like."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from fleetlimit.core.quota import SECOND_US
from fleetlimit.version import __version__
from support import e2e_plot as plot
from support.e2e_figure import svg
from support.e2e_report import Report, Run
from support.e2e_views import View

PASSED, FAILED, INTERRUPTED = "passed", "failed", "interrupted"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a test ended.

    Args:
        proves: The sentence that it proves.
        result: `passed`, `failed`, `skipped` or, as long as it is none of them, `interrupted`.
        message: Why, if it did not pass.
    """

    proves: str
    result: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class _Shown:
    """What a test recorded, with its plots.

    Args:
        run: What it recorded.
        plots: The main plot, and that of all answers.
    """

    run: Run
    plots: Sequence[Markup]


class Page:
    """Writes `index.html` into a report's folder, each main plot as `admitted.svg`, and the views.

    Args:
        report: What to show.
    """

    def __init__(self, report: Report) -> None:
        self.report = report
        self.ended: dict[str, Ended] = {}
        """How each test ended that began, by the name of its folder, in order."""
        self.views: Sequence[View] = ()
        """What the dashboards show; each is written into a file of its own, too."""
        self._shown: list[_Shown] = []

    def note(self, name: str, proves: str, phase: pytest.TestReport, message: str) -> None:
        """Note how a test ended, as far as it has come.

        Args:
            name: Its name, which is that of its folder.
            proves: The sentence that it proves.
            phase: How its setup, its call or its teardown ended.
            message: Why, if that phase did not pass.
        """
        before = self.ended.get(name)
        if phase.when == "teardown" and before and (phase.passed or before.result == FAILED):
            return
        begun = phase.when == "setup" and phase.passed
        result = INTERRUPTED if begun else phase.outcome
        self.ended[name] = Ended(proves, result, message)

    def write(self) -> None:
        """Write the page as far as the run has come; what was drawn before is not drawn again."""
        for run in self.report.runs[len(self._shown) :]:
            self._shown.append(self._draw(run))
        shown = {name: self._shown_of(self.report.folder / name) for name in self.ended}
        rows = [run.row for run in self.report.runs]
        starts = [run.answers.start_us for run in self.report.runs if run.answers.requests]
        for view in self.views:
            (self.report.folder / f"{view.uid}.svg").write_text(view.picture, encoding="utf-8")
        text = _template().render(
            verdict=self.verdict,
            overshoot=sum(row.overshoot for row in rows),
            admitted=sum(row.admitted for row in rows),
            permitted=sum(row.permitted for row in rows),
            began=datetime.fromtimestamp(min(starts) // SECOND_US, UTC) if starts else None,
            version=__version__,
            folder=self.report.folder,
            views=[(view, _inline(view.picture, f"{view.uid}-")) for view in self.views],
            tests=[(name, self.ended[name], shown[name]) for name in self.ended],
        )
        (self.report.folder / "index.html").write_text(text, encoding="utf-8")

    @property
    def verdict(self) -> str:
        """How many experiments held, in a sentence."""
        results = Counter(each.result for each in self.ended.values())
        held, others = results.pop(PASSED, 0), results
        total = held + others.total()
        if not total:
            return "No experiment was run."
        if not others:
            return f"All {total} experiments held." if total > 1 else "The one experiment held."
        told = ", ".join(f"{count} {result}" for result, count in others.items())
        return f"{held} of {total} experiments held: {told}."

    def _shown_of(self, folder: Path) -> list[_Shown]:
        return [each for each in self._shown if each.run.watch.folder.is_relative_to(folder)]

    def _draw(self, run: Run) -> _Shown:
        if not run.answers.requests:
            return _Shown(run, ())
        plots = [svg(draw(run)) for draw in (plot.admitted, plot.answers)]
        (run.watch.folder / "admitted.svg").write_text(plots[0], encoding="utf-8")
        number = len(self._shown)
        return _Shown(run, [_inline(each, f"{number}-{at}-") for at, each in enumerate(plots)])


def _inline(picture: str, prefix: str) -> Markup:
    """Return an SVG as part of a page, its ids apart from those of the others."""
    bare = picture[picture.index("<svg") :]
    return Markup(re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}", bare))  # noqa: S704


def _template() -> Template:
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["figure"] = _figure
    return made.get_template("e2e_page.html")


def _figure(value: object) -> str:
    return f"{value:,.2f}" if isinstance(value, float) else str(value)
