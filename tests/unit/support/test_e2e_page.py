"""Report page of the kind suite."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Final, Literal
from xml.etree import ElementTree as ET

import pytest

for extra in ("kr8s", "jinja2", "matplotlib"):
    pytest.importorskip(extra, reason="the kind suite needs the extra e2e")

from fleetlimit.core.decision import Outcome
from support import e2e_plot as plot
from support.e2e_figure import svg
from support.e2e_load import Answers, Request, Stream
from support.e2e_page import Page
from support.e2e_report import NO_PROMISE, Report, Run, measure
from support.e2e_tally import Promise, Tally
from support.e2e_watch import Mark, Reading, Watch

SECOND: Final = 1_000_000
START: Final = 1_800_000_003 * SECOND
Phase = tuple[Literal["setup", "call", "teardown"], str]
"""Phase of a test, and its outcome."""
PODS: Final = ("fleetlimit-1-abcde", "fleetlimit-1-fghij")


class Seen(Watch):
    """Watch with given readings and marks, without a cluster."""

    def __init__(self, folder: Path, readings: Sequence[Reading], marks: Sequence[Mark]) -> None:
        self.folder, self.readings, self.marks = folder, list(readings), list(marks)
        self.audited = 0
        folder.mkdir(parents=True)

    def read_counters(self) -> None:
        """Read nothing."""

    def decisions(self) -> Mapping[str, Counter[tuple[str, str]]]:
        """Return the last readings."""
        return {each.pod: Counter(each.decisions) for each in self.readings}

    def logged(self, pod: str = "") -> Counter[str]:
        """Return no log lines."""
        return Counter({pod: 0})


def request(at: float, policy: str = "bucket", status: int = 200) -> Request:
    stream = Stream(policy, "caller", "GET", "/", 1)
    return Request(stream, START + round(at * SECOND), 5_000, status, "" if status else "broken")


def seen(
    folder: Path,
    requests: Sequence[Request],
    name: str = "an experiment",
    promise: Promise = NO_PROMISE,
) -> Run:
    """Return a run whose first pod admitted all admitted requests."""
    let_in = Counter(
        (each.stream.policy, str(Outcome.ALLOWED)) for each in requests if each.status == 200
    )
    readings = [Reading(START, pod, {}) for pod in PODS] + [
        Reading(START + 9 * SECOND, PODS[0], let_in)
    ]
    watch = Seen(folder, readings, [Mark(START + SECOND, "pod <killed>")])
    more = {"killed": 1, "away_s": 1.23456}
    return measure(name, Answers(tuple(requests)), watch, more, promise=promise)


def ended(page: Page, name: str, *phases: Phase, why: str = "") -> None:
    """Record phases of a test on the page."""
    for when, outcome in phases:
        report = pytest.TestReport(name, (name, 0, name), {}, outcome, None, when)  # type: ignore[arg-type]
        page.note(name, "It holds.", report, why if outcome != "passed" else "")


ALL_PASSED: Final[tuple[Phase, ...]] = (
    ("setup", "passed"),
    ("call", "passed"),
    ("teardown", "passed"),
)
FAILED: Final[tuple[Phase, ...]] = (("setup", "passed"), ("call", "failed"), ("teardown", "passed"))


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return Page(Report(tmp_path))


def written(page: Page) -> str:
    page.write()
    return (page.report.folder / "index.html").read_text()


def text(page: str) -> str:
    """Return the text of a page without its pictures."""
    bare = re.sub(r"<svg.*?</svg>|<style.*?</style>", "", page, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", bare)).split())


class Ids(HTMLParser):
    """Parser that collects the ids of a page, references to them, and external links."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.used: set[str] = set()
        self.linked: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect from one tag."""
        for name, value in attrs:
            target = value or ""
            if name == "id":
                self.ids.append(target)
            elif name.endswith("href") and target.startswith("#"):
                self.used.add(target[1:])
            elif name in {"src", "srcset"} or tag in {"script", "link"} or "href" in name:
                self.linked.append(target)
            self.used |= set(re.findall(r"url\(#([^)]*)\)", target))


def test_passed_experiment_is_shown_with_its_figures(page: Page, tmp_path: Path) -> None:
    """The page has the summary, the docstring, the row and the further figures."""
    page.report.add(seen(tmp_path / "test_one", [request(0), request(1, status=429)]))
    ended(page, "test_one", *ALL_PASSED)
    shown = text(written(page))
    assert "The one experiment passed. Beyond what is promised: 0." in shown
    assert "an experiment ✓ passed 2 0.3 x 6 1 1 0 0 0 0 0 0 0 5.0 5.0 no" in shown
    assert "Least sent: before 0.33 x. Admitted and rejected: by clients 1 + 1," in shown
    assert "by counters 1 + 0, in logs 0 rejected." in shown
    assert "killed: 1. away, seconds: 1.23." in shown
    assert "It holds." in shown


def test_failed_experiment_is_shown_as_failed(page: Page, tmp_path: Path) -> None:
    """The summary counts it, and the page has its message."""
    for name in ("test_one", "test_two"):
        page.report.add(seen(tmp_path / name, [request(0)], name))
    ended(page, "test_one", *ALL_PASSED)
    ended(page, "test_two", *FAILED, why="expected overshoot 0, seen 1")
    shown = text(written(page))
    assert "1 of 2 experiments passed: 1 failed." in shown
    assert "test_two ✗ failed" in shown
    assert "test_two: ✗ failed It holds. expected overshoot 0, seen 1" in shown


def test_overshoot_is_in_the_header_of_a_passed_run(page: Page, tmp_path: Path) -> None:
    """Nine at once from a bucket of six are three too many, also in the plot."""
    run = seen(tmp_path / "test_one", [request(0)] * 9)
    page.report.add(run)
    ended(page, "test_one", *ALL_PASSED)
    html = written(page)
    assert '<span class="failed">Beyond what is promised: 3.</span>' in html
    figure = plot.admitted(run)
    titles = [panel.get_title(loc="right") for panel in figure.axes]
    assert titles == ["", "admitted 9 of 6; beyond the policy 3, the promise 3"]


def test_explained_overshoot_is_shown_apart(page: Page, tmp_path: Path) -> None:
    """Fourteen of eight: two without the store, three by its lost state, one by neither."""
    requests = [*[request(0)] * 10, *[request(5.5)] * 4]
    away = (START + 5 * SECOND, START + 6 * SECOND)
    promise = Promise(without_store={"bucket": [away]}, lost={"bucket": 3})
    page.report.add(seen(tmp_path / "test_one", requests, promise=promise))
    ended(page, "test_one", *ALL_PASSED)
    html = written(page)
    assert "Beyond the policies: 6, of which 2 without the store" in text(html)
    assert "3 by a store that lost its state, and 1 beyond what is promised." in text(html)
    assert "an experiment ✓ passed 14 1.8 x 8 14 0 6 2 3 1 0" in text(html)


def test_tests_without_figures_are_listed_with_what_they_proved(page: Page) -> None:
    """Those of one function are one row, and only a failed one has a section."""
    for parameter, phases in (("a-b", ALL_PASSED), ("c", FAILED), ("d", ALL_PASSED)):
        ended(page, f"test_server_accepts_the_chart[{parameter}]", *phases, why="no such kind")
    ended(page, "test_token_is_gone", *ALL_PASSED)
    html = written(page)
    shown = text(html)
    assert "server accepts the chart 2 of 3 passed It holds." in shown
    assert "token is gone ✓ passed It holds." in shown
    assert shown.count("no such kind") == 1
    assert re.findall("<h2>(.*)</h2>|<h2>(server[^:]*)", html) == [
        ("Proved without a measured load", ""),
        ("", "server accepts the chart (c)"),
    ]


def test_table_fits_1280_pixels(page: Page, tmp_path: Path) -> None:
    """The longest names and figures of each column need no more than the page has."""
    name = "from the bundled store to an external one"
    run = seen(tmp_path / "test_one", [request(0)], name)
    figures: dict[str, Any] = {
        **dict.fromkeys(("sent", "permitted", "admitted", "denied", "audited"), 88_888),
        **dict.fromkeys(("server_errors", "refused"), 8_888),
        **dict.fromkeys(("p99_ms", "slowest_ms"), 8_888.8),
    }
    row = replace(
        run.row,
        **figures,
        offered={"before": 888.8},
        tally=Tally(8_888, 8_888, 8_888, 8_888),
    )
    page.report.add(replace(run, row=row))
    ended(page, "test_one", *FAILED)
    html = written(page)
    [table] = re.findall(r'<table id="experiments">.*?</table>', html, flags=re.DOTALL)
    [_, lower, cells] = [
        [
            text(each.replace("&shy;", " "))
            for each in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line, flags=re.DOTALL)
        ]
        for line in re.findall(r"<tr>.*?</tr>", table, flags=re.DOTALL)
    ]
    # Experiment and result wrap between words; other cells do not, while their headers do.
    widths = [widest(cells[0]), len(cells[1])]
    for cell, header in zip(cells[2:], [*lower[:9], "audit", *lower[9:], "tallies"], strict=True):
        widths.append(max(len(cell), widest(header)))
    # 13 px: a character has less than 0.62 em in common fonts, a cell 12.8 px of padding.
    pixels = sum(13 * 0.62 * each + 12.8 for each in widths)
    scroll_bar_and_padding = 15 + 2 * 16
    assert pixels <= 1_280 - scroll_bar_and_padding, widths


def widest(cell: str) -> int:
    """Return the characters of the longest word of a cell."""
    return max(map(len, cell.split()))


def test_failed_setup_is_shown(page: Page) -> None:
    """The table has a row, and the page has the message."""
    ended(page, "test_one", ("setup", "failed"), ("teardown", "passed"), why="no pods")
    shown = text(written(page))
    assert "0 of 1 experiments passed: 1 failed." in shown
    assert "one ✗ failed It holds." in shown
    assert "no pods" in shown


def test_interrupted_test_has_not_passed(page: Page, tmp_path: Path) -> None:
    """A test without an end of its call is interrupted, even with figures."""
    page.report.add(seen(tmp_path / "test_one", [request(0)]))
    ended(page, "test_one", ("setup", "passed"))
    assert "0 of 1 experiments passed: 1 interrupted." in text(written(page))


def test_failed_teardown_fails_a_passed_test(page: Page) -> None:
    """The page has the message of the teardown."""
    ended(page, "test_one", *ALL_PASSED[:2], ("teardown", "failed"), why="still there")
    assert "✗ failed It holds. still there" in text(written(page))


def test_failed_teardown_does_not_replace_the_message_of_the_test(page: Page) -> None:
    """The page has the first message."""
    ended(page, "test_one", *FAILED[:2], why="first")
    ended(page, "test_one", ("teardown", "failed"), why="second")
    shown = text(written(page))
    assert "first" in shown
    assert "second" not in shown


def test_text_is_escaped(page: Page, tmp_path: Path) -> None:
    """Names and messages are HTML-escaped."""
    page.report.add(seen(tmp_path / "test_one", [request(0)], "<b>bold</b>"))
    ended(page, "test_one", *FAILED, why="<script>alert(1)</script> & more")
    html = written(page)
    assert "&lt;b&gt;bold&lt;/b&gt;" in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in html
    assert "<script" not in html
    assert "<b>" not in html


def test_page_is_self_contained(page: Page, tmp_path: Path) -> None:
    """The page loads nothing; ids are unique, and every reference has its id."""
    for name in ("test_one", "test_two"):
        page.report.add(
            seen(tmp_path / name, [request(0), request(1, "fixed"), request(2, status=0)])
        )
        ended(page, name, *ALL_PASSED)
    found = Ids(written(page))
    assert found.linked == ["results.json", "test_one/", "test_two/"]
    assert [name for name, count in Counter(found.ids).items() if count > 1] == []
    assert found.used <= set(found.ids)
    assert len(found.used) > 20


def test_same_run_gives_the_same_picture(page: Page, tmp_path: Path) -> None:
    """The SVG is well-formed, has a white background and the same bytes each time."""
    requests = [request(each / 4, status=429 if each % 3 else 200) for each in range(40)]
    run = seen(tmp_path / "test_one", requests)
    page.report.add(run)
    ended(page, "test_one", *ALL_PASSED)
    page.write()
    kept = (tmp_path / "test_one" / "admitted.svg").read_text()
    assert svg(plot.admitted(run)) == kept
    for picture in (kept, svg(plot.answers(run))):
        root = ET.fromstring(picture)  # noqa: S314 - our own
        background = root.find(".//{*}g[@id='patch_1']/{*}path")
        assert background is not None
        assert "fill: #ffffff" in background.attrib["style"]


def test_picture_is_small(tmp_path: Path) -> None:
    """Ten minutes of three policies, on nine pods that come and go, are below 100 kB."""
    policies = ("bucket", "fixed", "sliding")
    requests = [request(at / 4, each) for at in range(2_400) for each in policies]
    run = seen(tmp_path / "test_one", requests)
    run.watch.readings.extend(
        Reading(
            START + at * SECOND,
            f"fleetlimit-1-{pod:05}",
            {(each, "allowed"): min(max(0, at - 60 * pod), 40) for each in policies},
        )
        for at in range(600)
        for pod in range(9)
    )
    assert len(svg(plot.admitted(run))) < 100_000
    assert len(svg(plot.answers(run))) < 100_000


@pytest.mark.parametrize("pods", [1, 2, 3, 9, 20])
def test_legend_fits(tmp_path: Path, pods: int) -> None:
    """Any number of pods fits, with every line."""
    run = seen(tmp_path / "test_one", [request(0), request(30)])
    names = [f"fleetlimit-1-wmwm{chr(ord('a') + number)}" for number in range(pods)]
    run.watch.readings[:] = [Reading(START, name, {}) for name in names]
    figure = plot.admitted(replace(run, promise=Promise(lost={"bucket": 5})))
    figure.draw_without_rendering()
    [legend] = figure.legends
    box, whole = legend.get_window_extent(), figure.bbox
    assert whole.x0 <= box.x0 < box.x1 <= whole.x1
    assert whole.y0 <= box.y0
    assert {each.get_text() for each in legend.get_texts()} >= {name[-5:] for name in names}


def test_run_without_requests_has_no_picture(page: Page, tmp_path: Path) -> None:
    """It is listed with the tests that measured nothing."""
    page.report.add(seen(tmp_path / "test_one", []))
    ended(page, "test_one", *ALL_PASSED)
    html = written(page)
    assert "Proved without a measured load experiment result proved one ✓ passed" in text(html)
    assert 'id="experiments"' not in html
    assert "<svg" not in html


def test_raw_data_is_written(page: Page, tmp_path: Path) -> None:
    """Requests, readings and marks are in JSON files."""
    page.report.add(seen(tmp_path / "test_one", [request(0), request(1, status=0)]))

    def kept(name: str) -> list[object]:
        found: list[object] = json.loads((tmp_path / "test_one" / f"{name}.json").read_text())
        return found

    assert kept("requests") == [
        ["bucket", "caller", START, 5_000, 200],
        ["bucket", "caller", START + SECOND, 5_000, "broken"],
    ]
    assert kept("marks") == [[START + SECOND, "pod <killed>"]]
    assert kept("readings")[-1:] == [[START + 9 * SECOND, PODS[0], [["bucket", "allowed", 1]]]]
