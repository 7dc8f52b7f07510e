"""Experiment 3: a rolling restart and a `helm upgrade` under load."""

import time

import pytest
from kr8s.objects import Deployment

from support import e2e_timeouts as timeouts
from support.e2e_load import Load
from support.e2e_release import Release
from support.e2e_report import Report
from support.e2e_setup import streams
from support.e2e_watch import Watch
from support.eventually import eventually


@pytest.mark.experiment(number=3)
def test_rolling_restart_and_upgrade_lose_no_request(
    release: Release, installed: dict[str, object], image: str, watch: Watch, report: Report
) -> None:
    """No request is lost while every pod is replaced twice, and no caller exceeds its limit."""
    first = set(watch.ready())
    with Load(release, image, "rolling", streams("rolling", per_second=4), 300) as load:
        watch.mark("rolling restart")
        _restart(release)
        eventually(
            lambda: len(watch.ready()) == 3 and not first & set(watch.ready()),
            within=timeouts.HELM,
            what="the restart replaces every pod",
        )
        second = set(watch.ready())
        watch.mark("helm upgrade")
        stamp = str(time.time_ns())
        release.install(installed, {"podAnnotations": {"e2e.fleetlimit/upgraded": stamp}})
        eventually(
            lambda: len(watch.ready()) == 3 and not second & set(watch.ready()),
            within=timeouts.HELM,
            what="the upgrade replaces every pod",
        )
        assert load.running
        load.stop()
        answers = load.answers()
    row = report.record("rolling", answers, watch, {"pods": len(watch.decisions())})
    row.expect_lossless()


def _restart(release: Release) -> None:
    """Restart the Deployment like `kubectl rollout restart`."""
    deployment = Deployment.get(release.name, namespace=release.namespace, api=release.cluster.api)
    stamp = {"kubectl.kubernetes.io/restartedAt": str(time.time_ns())}
    deployment.patch({"spec": {"template": {"metadata": {"annotations": stamp}}}})
