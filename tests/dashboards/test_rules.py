"""Every alert fires when it should and only then, links to what shows it, and has its section."""

import re
import shutil
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from recordings import OF_RELEASE
from support import rules
from support.boards import BOARDS, FOLDER, panels, selectors
from support.promtool import check_result, needs_promtool, promtool

ROOT = FOLDER.parent
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", RUNBOOK, re.MULTILINE | re.DOTALL))
NAMES = sorted({rule["alert"] for rule in rules.ALERTS})
POD = 'namespace="n", job="j", pod="p"'


@needs_promtool
def test_prometheus_takes_the_rules() -> None:
    """The file is valid as it is, without a template or an operator."""
    assert "SUCCESS" in promtool("check", "rules", "--lint=all", "--lint-fatal", rules.FILE)


@needs_promtool
@pytest.mark.parametrize("file", rules.CASES, ids=lambda file: file.stem)
def test_an_alert_fires_when_it_should(file: Path) -> None:
    """Prometheus fires the alert in each case as expected, with these labels and texts."""
    promtool("test", "rules", file)


@pytest.mark.parametrize("alert", NAMES)
def test_an_alert_has_a_case_of_both_kinds(alert: str) -> None:
    """An alert has a case in which it fires, each window of it, and one in which it does not."""
    expected = [moment["exp_alerts"] for moment in rules.cases(alert)]
    assert [] in expected
    fired = {
        each["exp_labels"].get("window", "") for firing in expected if firing for each in firing
    }
    windows = {rule["labels"].get("window", "") for rule in rules.ALERTS if rule["alert"] == alert}
    assert fired == windows


def test_a_file_of_cases_is_called_as_its_alert() -> None:
    """There is a file of cases for each alert, and none for another."""
    assert [file.stem for file in rules.CASES] == NAMES


def test_alerts_of_one_name_are_told_apart() -> None:
    """No two alerts have one name and the same labels."""
    seen = [(rule["alert"], *sorted(rule["labels"].items())) for rule in rules.ALERTS]
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("rule", rules.ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_to_do(rule: dict[str, dict[str, str]]) -> None:
    """An alert has a severity, a line, a text, and links to a panel and a section that exist."""
    assert rule["labels"]["severity"] in {"page", "ticket"}
    told = rule["annotations"]
    assert set(told) == {"summary", "description", "runbook_url", "dashboard"}
    assert told["runbook_url"] == f"docs/runbook.md#{str(rule['alert']).lower()}"
    assert told["description"].endswith(".")
    link = urlsplit(re.sub(r"\{\{ with .*?\{\{ end \}\}", "", told["dashboard"]))
    (number,) = parse_qs(link.query)["viewPanel"]
    board = BOARDS[link.path.removeprefix("/d/")]
    assert int(number) in {panel["id"] for panel in panels(board)}


def test_every_alert_has_a_section_and_every_section_an_alert() -> None:
    """The runbook knows the alerts that there are: what each means, where to look, what to do."""
    assert sorted(SECTIONS) == NAMES
    for name, text in SECTIONS.items():
        heads = re.findall(r"^\*\*(.+?)\.\*\*", text, re.MULTILINE)
        assert heads == ["Means", "First look", "Fix", "Silence"], name


def test_the_runbook_names_panels_that_there_are() -> None:
    """What the runbook sends the reader to, in italics, is a panel or a board."""
    titles = {board["title"].removeprefix("Fleetlimit / ") for board in BOARDS.values()}
    titles |= {panel["title"] for board in BOARDS.values() for panel in panels(board)}
    named = re.findall(r"(?<!\*)\*([^*]+)\*(?!\*)", RUNBOOK)
    assert named
    assert {" ".join(each.split()) for each in named} <= titles


def test_every_selector_can_be_of_one_release() -> None:
    """Each selector has the matcher that the chart replaces, recordings' among them."""
    for query in rules.asked():
        found = selectors(query.expression)
        assert found, str(query)
        assert query.expression.count(OF_RELEASE) == len(found), str(query)


def test_nothing_is_recorded_under_a_name_of_another_kind() -> None:
    """What is recorded is named `level:metric:operations`."""
    for name in rules.RECORDED:
        assert re.fullmatch(r"(policy|job):fleetlimit_[a-z_]+:(ratio_)?rate\d+[mhd]", name)


@needs_promtool
def test_a_share_of_nothing_is_not_recorded(tmp_path: Path) -> None:
    """Without requests there is no share of slow checks or of degraded ones, and no NaN."""
    shutil.copy(rules.FILE, tmp_path)
    series = {
        f'fleetlimit_checks_total{{{POD}, outcome="allowed"}}': "5x40",
        f'fleetlimit_checks_total{{{POD}, outcome="fail_open"}}': "0x40",
        f'fleetlimit_check_duration_seconds_count{{{POD}, source="store"}}': "5x40",
        f'fleetlimit_check_duration_seconds_bucket{{{POD}, source="store", le="0.025"}}': "5x40",
    }
    named = '{__name__=~"job:fleetlimit_checks_.*:ratio_rate.*"}'
    check_result(tmp_path, series, named, {}, rules=rules.FILE.name)
    busy = dict.fromkeys(series, "0+15x40")
    counted = {'{namespace="n", job="j"}': 14}
    check_result(
        tmp_path, busy, f"count by (namespace, job) ({named})", counted, rules=rules.FILE.name
    )
