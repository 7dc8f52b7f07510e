"""Alerts: promtool cases, links to panels, and runbook sections."""

import json
import re
import shutil
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from dashboard import RUNBOOK as RUNBOOK_URL
from recording_rules import ALL_RELEASES
from support import rules
from support.boards import BOARDS, panels, selectors
from support.promtool import check_result, needs_promtool, promtool
from support.tool import ROOT

RUNBOOK = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", RUNBOOK, re.MULTILINE | re.DOTALL))
NAMES = sorted({rule["alert"] for rule in rules.ALERTS})
POD = 'namespace="n", job="j", pod="p"'


@needs_promtool
def test_rules_file_is_valid() -> None:
    """Prometheus can load the file without Helm or an operator."""
    for file in (rules.FILE, rules.FILE_INFO):
        assert "SUCCESS" in promtool("check", "rules", "--lint=all", "--lint-fatal", file)


@needs_promtool
@pytest.mark.parametrize("file", rules.CASES, ids=lambda file: file.stem)
def test_alert_cases_pass(file: Path, tmp_path: Path) -> None:
    """Each alert fires or does not fire as expected, with its labels and texts."""
    cases = yaml.safe_load(file.read_text(encoding="utf-8"))
    committed = {(file.parent / each).resolve() for each in cases["rule_files"]}
    assert committed <= {rules.FILE, rules.FILE_INFO}
    (tmp_path / "rules.yaml").write_text(json.dumps({"groups": rules.groups_of(file.stem)}))
    (tmp_path / "cases.yaml").write_text(json.dumps({**cases, "rule_files": ["rules.yaml"]}))
    promtool("test", "rules", tmp_path / "cases.yaml")


@pytest.mark.parametrize("alert", NAMES)
def test_alert_has_firing_and_silent_cases(alert: str) -> None:
    """An alert has a case in which it fires, for each window, and one in which it does not."""
    expected = [moment["exp_alerts"] for moment in rules.cases(alert)]
    assert [] in expected
    fired = {
        each["exp_labels"].get("window", "") for firing in expected if firing for each in firing
    }
    windows = {rule["labels"].get("window", "") for rule in rules.ALERTS if rule["alert"] == alert}
    assert fired == windows


def test_case_files_are_named_after_alerts() -> None:
    """There is one file of cases per alert, and no other file."""
    assert [file.stem for file in rules.CASES] == NAMES


def test_alerts_are_unique() -> None:
    """No two alerts have the same name and labels."""
    seen = [(rule["alert"], *sorted(rule["labels"].items())) for rule in rules.ALERTS]
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("rule", rules.ALERTS, ids=lambda rule: rule["alert"])
def test_alert_has_texts_and_links(rule: dict[str, dict[str, str]]) -> None:
    """An alert has a severity, a summary, a description, and links to a panel and a section."""
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    texts = rule["annotations"]
    assert set(texts) == {"summary", "description", "runbook_url", "dashboard"}
    assert texts["runbook_url"] == f"{RUNBOOK_URL}#{str(rule['alert']).lower()}"
    assert texts["description"].endswith(".")
    link = urlsplit(re.sub(r"\{\{ with .*?\{\{ end \}\}", "", texts["dashboard"]))
    (number,) = parse_qs(link.query)["viewPanel"]
    board = BOARDS[link.path.removeprefix("/d/")]
    assert int(number) in {panel["id"] for panel in panels(board)}


def test_runbook_has_one_section_per_alert() -> None:
    """Each section has the parts Meaning, Diagnosis, Fix and Silence."""
    assert sorted(SECTIONS) == NAMES
    for name, text in SECTIONS.items():
        heads = re.findall(r"^\*\*(.+?)\.\*\*", text, re.MULTILINE)
        assert heads == ["Meaning", "Diagnosis", "Fix", "Silence"], name


def test_runbook_names_existing_panels() -> None:
    """Names in italics are panels or dashboards."""
    titles = {board["title"].removeprefix("Fleetlimit / ") for board in BOARDS.values()}
    titles |= {panel["title"] for board in BOARDS.values() for panel in panels(board)}
    named = re.findall(r"(?<!\*)\*([^*]+)\*(?!\*)", RUNBOOK)
    assert named
    assert {" ".join(each.split()) for each in named} <= titles


def test_selectors_have_the_release_matcher() -> None:
    """Each selector has the matcher that the chart replaces, also selectors of recorded series."""
    for query in rules.queries():
        found = selectors(query.expression)
        assert found, str(query)
        assert query.expression.count(ALL_RELEASES) == len(found), str(query)


def test_recorded_names_follow_the_convention() -> None:
    """Recorded series are named `level:metric:operations`."""
    for name in rules.RECORDED:
        assert re.fullmatch(r"(policy|job):fleetlimit_[a-z_]+:((ratio_)?rate\d+[mhd]|min)", name)


@needs_promtool
def test_shares_without_traffic_are_not_recorded(tmp_path: Path) -> None:
    """Without checks, the shares of slow and degraded checks have no value, not NaN."""
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
