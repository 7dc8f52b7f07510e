"""Links to traces, logs and dashboards keep the selection and the time range."""

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from dashboard import FLEET, HEALTHY, HOLDS, THROTTLED, logs_url
from support.boards import BOARDS, panels, queries


def panel(uid: str, title: str) -> dict[str, Any]:
    (found,) = [each for each in panels(BOARDS[uid]) if each["title"] == title]
    return found


def pane(path: str) -> Any:
    """Return the pane of an Explore URL."""
    parts = urlsplit(path)
    assert parts.path == "/explore"
    (shown,) = json.loads(parse_qs(parts.query)["panes"][0]).values()
    return shown


@pytest.mark.parametrize("title", ["Denials by policy", "Denied share by policy and tier"])
def test_policy_series_links_to_its_log_lines(title: str) -> None:
    """A click on a series opens its log lines in the selected Loki, over the time range."""
    (link,) = panel(THROTTLED, title)["fieldConfig"]["defaults"]["links"]
    shown = pane(link["url"])
    (query,) = shown["queries"]
    assert query["datasource"] == {"type": "loki", "uid": "${loki}"}
    assert query["expr"].endswith("| json | policy=`${__field.labels.policy}`")
    assert shown["range"] == {"from": "${__from}", "to": "${__to}"}


def test_logs_url_keeps_placeholders() -> None:
    """Everything but Grafana's placeholders is percent-encoded."""
    path = logs_url("{a=~`${__field.labels.policy}`}")
    assert "%7Ba%3D~%60${__field.labels.policy}%60%7D" in path
    assert '"' not in path
    assert " " not in path


def test_release_links_to_its_boards() -> None:
    """A row of the fleet table links to the other dashboards, for its namespace and job."""
    (override,) = [
        each
        for each in panel(FLEET, "Releases")["fieldConfig"]["overrides"]
        if each["matcher"]["options"] == "Job"
    ]
    (property_,) = override["properties"]
    paths = [link["url"] for link in property_["value"]]
    assert [urlsplit(path).path for path in paths] == [
        f"/d/{uid}" for uid in (HOLDS, THROTTLED, HEALTHY)
    ]
    for path in paths:
        assert "var-namespace=${__data.fields.Namespace}" in path
        assert "var-job=${__data.fields.Job}" in path
        assert "${__url_time_range}" in path


def test_exemplars_are_queried_from_metrics_that_have_them() -> None:
    """Check durations, decisions and denials have exemplars."""
    metrics = {
        "fleetlimit_check_duration_seconds",
        "fleetlimit_decisions_total",
        "fleetlimit_denials_total",
    }
    found = [each for each in queries() if each.target.get("exemplar")]
    assert len(found) == 6
    for each in found:
        assert any(metric in each.expression for metric in metrics), str(each)
        assert each.panel["type"] in {"timeseries", "heatmap"}
