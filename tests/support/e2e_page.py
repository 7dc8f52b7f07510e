"""Report page of the kind suite: results, figures and plots of all experiments."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from fleetlimit.core.quota import SECOND_US
from fleetlimit.version import __version__
from support import e2e_plot as plot
from support.boards import BOARDS
from support.e2e_figure import svg
from support.e2e_report import Report, Run
from support.e2e_tally import Tally

PASSED, FAILED, INTERRUPTED = "passed", "failed", "interrupted"


@dataclass(frozen=True, slots=True)
class Ended:
    """Result of a test.

    Args:
        title: Name of the test in words.
        docstring: Docstring of the test.
        result: `passed`, `failed`, `skipped`, or `interrupted` until the test has ended.
        message: Failure message, if any.
    """

    title: str
    docstring: str
    result: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class _Shown:
    """Run of an experiment with its plots: admitted requests, and all results."""

    run: Run
    plots: Sequence[Markup]


@dataclass(frozen=True, slots=True)
class _Proved:
    """Tests of one function without figures; `first` is the first of them that did not pass."""

    title: str
    first: Ended
    runs: int
    passed: int


class Page:
    """Report page: `index.html`, and each main plot and each dashboard as an SVG file."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.ended: dict[str, Ended] = {}
        """Results of the started tests by the name of their folder, in order."""
        self.drawings: Mapping[str, str] = {}
        """SVG of each dashboard by uid; each is also written into a file of its own."""
        self._shown: list[_Shown] = []

    def note(self, name: str, docstring: str, phase: pytest.TestReport, message: str) -> None:
        """Record the result of a phase of a test: setup, call or teardown."""
        before = self.ended.get(name)
        if phase.when == "teardown" and before and (phase.passed or before.result == FAILED):
            return
        begun = phase.when == "setup" and phase.passed
        # A test that failed as `--broken` expects it.
        expected = phase.skipped and hasattr(phase, "wasxfail")
        result = INTERRUPTED if begun else PASSED if expected else phase.outcome
        self.ended[name] = Ended(_title(name), docstring, result, message)

    def write(self) -> None:
        """Write the page with the results so far. Each plot is drawn only once."""
        for run in self.report.runs[len(self._shown) :]:
            self._shown.append(self._draw(run))
        tests = [
            (name, ended, self._shown_of(self.report.folder / name))
            for name, ended in self.ended.items()
        ]
        measured = [each for each in tests if each[2]]
        without = {name: ended for name, ended, shown in tests if not shown}
        rows = [run.row for run in self.report.runs]
        starts = [run.answers.start_us for run in self.report.runs if run.answers.requests]
        for uid, picture in self.drawings.items():
            (self.report.folder / f"{uid}.svg").write_text(picture, encoding="utf-8")
        text = _template().render(
            summary=self.summary,
            total=sum((row.tally for row in rows), start=Tally()),
            admitted=sum(row.admitted for row in rows),
            permitted=sum(row.permitted for row in rows),
            began=datetime.fromtimestamp(min(starts) // SECOND_US, UTC) if starts else None,
            version=__version__,
            folder=self.report.folder,
            drawings=[
                (uid, BOARDS[uid]["title"], _inline(picture, f"{uid}-"))
                for uid, picture in self.drawings.items()
            ],
            ended=list(self.ended.values()),
            measured=measured,
            proved=_proved(without),
            detailed=[each for each in tests if each[2] or each[1].message],
        )
        (self.report.folder / "index.html").write_text(text, encoding="utf-8")

    @property
    def summary(self) -> str:
        """Number of passed experiments, as a sentence."""
        results = Counter(each.result for each in self.ended.values())
        passed, others = results.pop(PASSED, 0), results
        total = passed + others.total()
        if not total:
            return "No experiment was run."
        if not others:
            return f"All {total} experiments passed." if total > 1 else "The one experiment passed."
        failures = ", ".join(f"{count} {result}" for result, count in others.items())
        return f"{passed} of {total} experiments passed: {failures}."

    def _shown_of(self, folder: Path) -> list[_Shown]:
        """Return the runs of a test that measured something."""
        return [
            each
            for each in self._shown
            if each.plots and each.run.watch.folder.is_relative_to(folder)
        ]

    def _draw(self, run: Run) -> _Shown:
        if not run.answers.requests:
            return _Shown(run, ())
        plots = [svg(draw(run)) for draw in (plot.admitted, plot.answers)]
        (run.watch.folder / "admitted.svg").write_text(plots[0], encoding="utf-8")
        number = len(self._shown)
        return _Shown(run, [_inline(each, f"{number}-{at}-") for at, each in enumerate(plots)])


def _proved(tests: Mapping[str, Ended]) -> list[_Proved]:
    """Return tests without figures, those of one function together."""
    groups: dict[str, list[Ended]] = {}
    for name, ended in tests.items():
        groups.setdefault(name.partition("[")[0], []).append(ended)
    return [
        _Proved(
            _title(function),
            min(found, key=lambda each: each.result == PASSED),
            len(found),
            sum(each.result == PASSED for each in found),
        )
        for function, found in groups.items()
    ]


def _title(name: str) -> str:
    """Return the name of a test in words: `test_a_b[c-d]` is `a b (c-d)`."""
    function, _, parameters = name.removeprefix("test_").partition("[")
    words = _words(function)
    return f"{words} ({parameters.removesuffix(']')})" if parameters else words


def _words(name: str) -> str:
    """Return a name in words, with the unit of a figure after a comma."""
    words = name.removesuffix("_s").removesuffix("_ms").replace("_", " ")
    unit = {"_ms": ", ms", "_s": ", seconds"}
    return words + next((text for end, text in unit.items() if name.endswith(end)), "")


def _inline(picture: str, prefix: str) -> Markup:
    """Return an SVG for inclusion in a page, with a prefix that makes its ids unique."""
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
    made.filters["words"] = _words
    return made.get_template("e2e_page.html")


def _figure(value: object) -> str:
    return f"{value:,.2f}" if isinstance(value, float) else str(value)
