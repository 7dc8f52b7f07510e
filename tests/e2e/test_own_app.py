"""Experiment 9: an app without any code of Fleetlimit, installed by its values.yaml."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from fleetlimit.core.decision import Outcome
from fleetlimit.core.quota import rate_quota
from support import e2e_cluster as kind
from support.e2e_load import Load, Stream
from support.e2e_release import Release
from support.e2e_report import Report
from support.e2e_setup import values
from support.e2e_watch import Watch
from support.tool import ROOT

_VALUES = ROOT / "deploy/examples/orders/values.yaml"
_QUOTAS = {"orders": rate_quota("5/minute")}


@pytest.mark.experiment(number=9)
@pytest.mark.measured
def test_app_without_fleetlimit_code_is_limited(
    another_release: Callable[[str], Release], image: str, folder: Path, report: Report
) -> None:
    """The limit of the policies applies to its route over all replicas."""
    names = kind.images()
    given = values(names["EXAMPLE_IMAGE"], names["VALKEY_IMAGE"])
    here = {each: given[each] for each in ("image", "valkey", "settings")}
    release = another_release("own-app")
    release.install(yaml.safe_load(_VALUES.read_text()), here)
    service = f"/api/v1/namespaces/{release.namespace}/services/{release.name}:http"
    assert json.loads(release.cluster.get(f"{service}/proxy/orders/7")) == {"order": 7}

    orders = Stream("orders", "orders", "POST", "/orders", 10)
    with Watch(release, folder) as watch, Load(release, image, "orders", [orders], 4) as load:
        answers = load.answers()
        row = report.record("an app without code of Fleetlimit", answers, watch, quotas=_QUOTAS)
        decisions = watch.decisions()
    row.expect_lossless()
    assert set(answers.statuses) == {200, 429}
    assert _QUOTAS["orders"].burst <= answers.admitted <= row.permitted
    assert len(decisions) == 3
    assert all(each["orders", Outcome.DENIED] for each in decisions.values())
    assert watch.decided("orders", Outcome.ALLOWED) == answers.admitted
    release.helm("test")
