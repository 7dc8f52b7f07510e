"""Links lead to traces, logs and boards, with what the reader is looking at."""

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

import links
from support.boards import BOARDS, panels, queries


def panel(uid: str, title: str) -> dict[str, Any]:
    (found,) = [each for each in panels(BOARDS[uid]) if each["title"] == title]
    return found


def pane(path: str) -> Any:
    """Return what a path tells Explore to show."""
    parts = urlsplit(path)
    assert parts.path == "/explore"
    (shown,) = json.loads(parse_qs(parts.query)["panes"][0]).values()
    return shown


@pytest.mark.parametrize("title", ["Denials by policy", "Denied share by policy"])
def test_a_series_of_a_policy_leads_to_its_lines(title: str) -> None:
    """A click on a policy's series opens its lines in the picked logs, over the time looked at."""
    (link,) = panel(links.THROTTLED, title)["fieldConfig"]["defaults"]["links"]
    shown = pane(link["url"])
    (query,) = shown["queries"]
    assert query["datasource"] == {"type": "loki", "uid": "${loki}"}
    assert query["expr"].endswith("| json | policy=`${__field.labels.policy}`")
    assert shown["range"] == {"from": "${__from}", "to": "${__to}"}


def test_placeholders_are_left_as_they_are() -> None:
    """Grafana finds its placeholders in a path of which all else is percent-encoded."""
    path = links.logs("{a=~`${__field.labels.policy}`}")
    assert "%7Ba%3D~%60${__field.labels.policy}%60%7D" in path
    assert '"' not in path
    assert " " not in path


def test_a_release_leads_to_its_boards() -> None:
    """A row of the fleet leads to the other three boards, for that namespace and job alone."""
    (override,) = [
        each
        for each in panel(links.FLEET, "Releases")["fieldConfig"]["overrides"]
        if each["matcher"]["options"] == "Job"
    ]
    (property_,) = override["properties"]
    paths = [link["url"] for link in property_["value"]]
    assert [urlsplit(path).path for path in paths] == [
        f"/d/{uid}" for uid in (links.HOLDS, links.THROTTLED, links.HEALTHY)
    ]
    for path in paths:
        assert "var-namespace=${__data.fields.Namespace}" in path
        assert "var-job=${__data.fields.Job}" in path
        assert "${__url_time_range}" in path


def test_traces_are_asked_for_where_there_are_some() -> None:
    """Exemplars are asked of the metrics that have them: durations and denials."""
    metrics = {
        "fleetlimit_check_duration_seconds",
        "fleetlimit_decisions_total",
        "fleetlimit_denials_total",
    }
    asked = [each for each in queries() if each.target.get("exemplar")]
    assert len(asked) == 6
    for each in asked:
        assert any(metric in each.expression for metric in metrics), str(each)
        assert each.panel["type"] in {"timeseries", "heatmap"}
