"""Experiment 3: a rolling restart and a `helm upgrade` under load."""

import time

import pytest

from support.e2e_load import Load
from support.e2e_release import Release
from support.e2e_report import Report
from support.e2e_setup import streams
from support.e2e_tally import until_offered
from support.e2e_watch import Watch


@pytest.mark.experiment(number=3)
@pytest.mark.measured
def test_rolling_restart_and_upgrade_lose_no_request(
    release: Release, installed: dict[str, object], image: str, watch: Watch, report: Report
) -> None:
    """No request is lost while every pod is replaced twice, and no caller exceeds its limit."""
    first = watch.ready()
    with Load(release, image, "rolling", streams("rolling", per_second=4), 300) as load:
        until_offered(watch, load)
        watch.begin("rolling restart")
        release.restart()
        watch.until_replaced(first, by="restart")
        second = watch.ready()
        until_offered(watch, load)
        watch.begin("helm upgrade")
        stamp = str(time.time_ns())
        release.install(installed, {"podAnnotations": {"e2e.fleetlimit/upgraded": stamp}})
        watch.until_replaced(second, by="upgrade")
        until_offered(watch, load)
        assert load.running
        load.stop()
        answers = load.answers()
    more = {"pods": len(watch.decisions())}
    row = report.record("rolling restart, then helm upgrade", answers, watch, more)
    row.expect_lossless()
