"""The page of the kind suite shows what happened, and nothing that did not."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Final, Literal
from xml.etree import ElementTree as ET

import pytest

for extra in ("kr8s", "jinja2", "matplotlib"):
    pytest.importorskip(extra, reason="the kind suite needs the extra e2e")

from fleetlimit.core.decision import Outcome
from support import e2e_plot as plot
from support.e2e_figure import svg
from support.e2e_load import Answers, Request, Stream
from support.e2e_page import Page
from support.e2e_report import Report, Run, measure
from support.e2e_watch import Look, Mark, Watch

SECOND: Final = 1_000_000
START: Final = 1_800_000_003 * SECOND
PODS: Final = ("fleetlimit-1-abcde", "fleetlimit-1-fghij")


class Seen(Watch):
    """What was seen of pods that never were."""

    def __init__(self, folder: Path, looks: Sequence[Look], marks: Sequence[Mark]) -> None:
        self.folder, self.looks, self.marks = folder, list(looks), list(marks)
        self.audited = 0
        folder.mkdir(parents=True)

    def look(self) -> None:
        """See nothing more."""

    def decisions(self) -> Mapping[str, Counter[tuple[str, str]]]:
        """Return what was seen last."""
        return {each.pod: Counter(each.decisions) for each in self.looks}

    def logged(self, pod: str = "") -> Counter[str]:
        """Return that no pod logged a refusal."""
        return Counter({pod: 0})


def asked(at: float, policy: str = "bucket", status: int = 200) -> Request:
    stream = Stream(policy, "caller", "GET", "/", 1)
    return Request(stream, START + round(at * SECOND), 5_000, status, "" if status else "broken")


def seen(folder: Path, requests: Sequence[Request], name: str = "an experiment") -> Run:
    """Return a run whose first pod let in all that was let in."""
    let_in = Counter(
        (each.stream.policy, str(Outcome.ALLOWED)) for each in requests if each.status == 200
    )
    looks = [Look(START, pod, {}) for pod in PODS] + [Look(START + 9 * SECOND, PODS[0], let_in)]
    watch = Seen(folder, looks, [Mark(START + SECOND, "pod <killed>")])
    return measure(name, Answers(tuple(requests)), watch, {"killed": 1, "away_s": 1.23456})


def ended(
    page: Page, name: str, *phases: tuple[Literal["setup", "call", "teardown"], str], why: str = ""
) -> None:
    """Tell the page how the phases of a test ended."""
    for when, outcome in phases:
        report = pytest.TestReport(name, (name, 0, name), {}, outcome, None, when)  # type: ignore[arg-type]
        page.note(name, "It holds.", report, why if outcome != "passed" else "")


HELD: Final = (("setup", "passed"), ("call", "passed"), ("teardown", "passed"))
FAILED: Final = (("setup", "passed"), ("call", "failed"), ("teardown", "passed"))


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return Page(Report(tmp_path))


def written(page: Page) -> str:
    page.write()
    return (page.report.folder / "index.html").read_text()


def text(page: str) -> str:
    """Return what a reader sees of a page, without its pictures."""
    bare = re.sub(r"<svg.*?</svg>|<style.*?</style>", "", page, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", bare)).split())


class Ids(HTMLParser):
    """Collects the ids of a page, what refers to one, and what is elsewhere."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.used: set[str] = set()
        self.linked: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect from one tag."""
        for name, value in attrs:
            told = value or ""
            if name == "id":
                self.ids.append(told)
            elif name.endswith("href") and told.startswith("#"):
                self.used.add(told[1:])
            elif name in {"src", "srcset"} or tag in {"script", "link"} or "href" in name:
                self.linked.append(told)
            self.used |= set(re.findall(r"url\(#([^)]*)\)", told))


def test_an_experiment_that_held_is_shown_with_its_figures(page: Page, tmp_path: Path) -> None:
    """The verdict, what is proved, the row and what else was measured are there."""
    page.report.add(seen(tmp_path / "test_one", [asked(0), asked(1, status=429)]))
    ended(page, "test_one", *HELD)
    told = text(written(page))
    assert "The one experiment held. Overshoot in all: 0." in told
    assert "an experiment ✓ passed 2 22 1 1 0 0 0 0 0 5.0 5.0 1 + 1 1 + 0 0 no killed 1" in told
    assert "away_s 1.23" in told
    assert "It holds." in told


def test_a_failed_experiment_is_shown_as_failed(page: Page, tmp_path: Path) -> None:
    """It is counted in the verdict, and its message is there."""
    for name in ("test_one", "test_two"):
        page.report.add(seen(tmp_path / name, [asked(0)], name))
    ended(page, "test_one", *HELD)
    ended(page, "test_two", *FAILED, why="expected overshoot 0, seen 1")
    told = text(written(page))
    assert "1 of 2 experiments held: 1 failed." in told
    assert "test_two ✗ failed" in told
    assert "test_two: ✗ failed It holds. expected overshoot 0, seen 1" in told


def test_overshoot_is_on_top_whatever_the_tests_say(page: Page, tmp_path: Path) -> None:
    """Twenty-three at once from a bucket of twenty are three too many, and the plot says so."""
    run = seen(tmp_path / "test_one", [asked(0)] * 23)
    page.report.add(run)
    ended(page, "test_one", *HELD)
    html = written(page)
    assert '<span class="not">Overshoot in all: 3.</span>' in html
    figure = plot.admitted(run)
    titles = [panel.get_title(loc="right") for panel in figure.axes]
    assert titles == ["", "let in 23 of 20 permitted, overshoot 3"]


def test_what_failed_before_it_measured_is_shown(page: Page) -> None:
    """A setup that fails leaves a line in the table and its message."""
    ended(page, "test_one", ("setup", "failed"), ("teardown", "passed"), why="no pods")
    told = text(written(page))
    assert "0 of 1 experiments held: 1 failed." in told
    assert "test_one ✗ failed nothing measured" in told
    assert "no pods" in told


def test_what_was_interrupted_is_no_success(page: Page, tmp_path: Path) -> None:
    """Of a test whose call never ended it is said, though it had measured something."""
    page.report.add(seen(tmp_path / "test_one", [asked(0)]))
    ended(page, "test_one", ("setup", "passed"))
    assert "0 of 1 experiments held: 1 interrupted." in text(written(page))


def test_a_failed_teardown_fails_what_passed(page: Page) -> None:
    """A test that could not clean up is shown as failed, and why."""
    ended(page, "test_one", *HELD[:2], ("teardown", "failed"), why="still there")
    assert "✗ failed It holds. still there" in text(written(page))


def test_a_failed_teardown_does_not_hide_why_the_test_failed(page: Page) -> None:
    """The first message is the one that is shown."""
    ended(page, "test_one", *FAILED[:2], why="first")
    ended(page, "test_one", ("teardown", "failed"), why="second")
    told = text(written(page))
    assert "first" in told
    assert "second" not in told


def test_text_is_escaped(page: Page, tmp_path: Path) -> None:
    """Names and messages are shown as they are."""
    page.report.add(seen(tmp_path / "test_one", [asked(0)], "<b>bold</b>"))
    ended(page, "test_one", *FAILED, why="<script>alert(1)</script> & more")
    html = written(page)
    assert "&lt;b&gt;bold&lt;/b&gt;" in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in html
    assert "<script" not in html
    assert "<b>" not in html


def test_the_page_needs_nothing_else(page: Page, tmp_path: Path) -> None:
    """Nothing is fetched; every id is there once, and what is referred to is there."""
    for name in ("test_one", "test_two"):
        page.report.add(seen(tmp_path / name, [asked(0), asked(1, "fixed"), asked(2, status=0)]))
        ended(page, name, *HELD)
    found = Ids(written(page))
    assert found.linked == ["results.json", "test_one/", "test_two/"]
    assert [name for name, count in Counter(found.ids).items() if count > 1] == []
    assert found.used <= set(found.ids)
    assert len(found.used) > 20


def test_the_same_run_gives_the_same_picture(page: Page, tmp_path: Path) -> None:
    """The SVG is well-formed, has an opaque background and the same bytes each time."""
    requests = [asked(each / 4, status=429 if each % 3 else 200) for each in range(40)]
    run = seen(tmp_path / "test_one", requests)
    page.report.add(run)
    ended(page, "test_one", *HELD)
    page.write()
    kept = (tmp_path / "test_one" / "admitted.svg").read_text()
    assert svg(plot.admitted(run)) == kept
    for picture in (kept, svg(plot.answers(run))):
        root = ET.fromstring(picture)  # noqa: S314 - our own
        background = root.find(".//{*}g[@id='patch_1']/{*}path")
        assert background is not None
        assert "fill: #ffffff" in background.attrib["style"]


def test_a_picture_stays_small(tmp_path: Path) -> None:
    """Three minutes of three policies, on nine pods that come and go, are below 150 kB."""
    policies = ("bucket", "fixed", "sliding")
    requests = [asked(at / 4, each) for at in range(720) for each in policies]
    run = seen(tmp_path / "test_one", requests)
    run.watch.looks.extend(
        Look(
            START + at * SECOND,
            f"fleetlimit-1-{pod:05}",
            {(each, "allowed"): min(max(0, at - 20 * pod), 40) for each in policies},
        )
        for at in range(180)
        for pod in range(9)
    )
    assert len(svg(plot.admitted(run))) < 150_000
    assert len(svg(plot.answers(run))) < 150_000


@pytest.mark.parametrize("pods", [1, 2, 3, 9, 20])
def test_a_legend_fits(tmp_path: Path, pods: int) -> None:
    """However many pods there were, and with every line, no name is cut off."""
    run = seen(tmp_path / "test_one", [asked(0), asked(30)])
    names = [f"fleetlimit-1-wmwm{chr(ord('a') + number)}" for number in range(pods)]
    run.watch.looks[:] = [Look(START, name, {}) for name in names]
    figure = plot.admitted(replace(run, beyond={"bucket": 5}))
    figure.draw_without_rendering()
    [legend] = figure.legends
    box, whole = legend.get_window_extent(), figure.bbox
    assert whole.x0 <= box.x0 < box.x1 <= whole.x1
    assert whole.y0 <= box.y0
    assert {each.get_text() for each in legend.get_texts()} >= {name[-5:] for name in names}


def test_a_run_without_requests_has_no_picture(page: Page, tmp_path: Path) -> None:
    """Its row is shown all the same."""
    page.report.add(seen(tmp_path / "test_one", []))
    ended(page, "test_one", *HELD)
    html = written(page)
    assert "an experiment ✓ passed 0 0 0" in text(html)
    assert "<svg" not in html


def test_what_was_seen_is_kept(page: Page, tmp_path: Path) -> None:
    """Requests, looks and marks can be read again."""
    page.report.add(seen(tmp_path / "test_one", [asked(0), asked(1, status=0)]))

    def kept(name: str) -> list[object]:
        found: list[object] = json.loads((tmp_path / "test_one" / f"{name}.json").read_text())
        return found

    assert kept("requests") == [
        ["bucket", "caller", START, 5_000, 200],
        ["bucket", "caller", START + SECOND, 5_000, "broken"],
    ]
    assert kept("marks") == [[START + SECOND, "pod <killed>"]]
    assert kept("looks")[-1:] == [[START + 9 * SECOND, PODS[0], [["bucket", "allowed", 1]]]]
