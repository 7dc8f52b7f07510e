"""Experiment 3: a rolling restart and a `helm upgrade` under load."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support.e2e_load import Load
from support.e2e_release import Release
from support.e2e_report import Report
from support.e2e_setup import PATIENT, streams
from support.e2e_tally import until_offered
from support.e2e_watch import Watch


@pytest.mark.experiment(number=3)
@pytest.mark.measured
def test_rolling_restart_and_upgrade_lose_no_request(
    another_release: Callable[[str], Release],
    installed: dict[str, object],
    image: str,
    folder: Path,
    report: Report,
) -> None:
    """No request is lost while every pod is replaced twice, and no caller exceeds its limit."""
    release = another_release("rolling")
    release.install(installed, PATIENT)
    with (
        Watch(release, folder) as watch,
        Load(release, image, "rolling", streams("rolling", per_second=4), 300) as load,
    ):
        first = watch.ready()
        until_offered(watch, load)
        watch.begin("rolling restart")
        release.restart()
        watch.until_replaced(first, by="restart")
        second = watch.ready()
        until_offered(watch, load)
        watch.begin("helm upgrade")
        stamp = str(time.time_ns())
        annotations = {"e2e.fleetlimit/upgraded": stamp}
        release.install(installed, PATIENT, {"podAnnotations": annotations})
        watch.until_replaced(second, by="upgrade")
        until_offered(watch, load)
        assert load.running
        load.stop()
        answers = load.answers()
        more = {"pods": len(watch.decisions())}
        row = report.record("rolling restart, then helm upgrade", answers, watch, more)
    row.expect_lossless()
