"""Experiment 4: the number of pods changes under load."""

import pytest

from support import e2e_timeouts as timeouts
from support.e2e_eventually import eventually
from support.e2e_load import Load
from support.e2e_release import Release
from support.e2e_report import Report
from support.e2e_scene import streams
from support.e2e_watch import Watch

FEW, MANY = 2, 6


@pytest.mark.experiment(number=4)
def test_scaled(
    release: Release, installed: dict[str, object], image: str, watch: Watch, report: Report
) -> None:
    """Two pods, six and two again let in what one would, and nobody notices the changes."""
    try:
        _scale(release, installed, watch, FEW)
        with Load(release, image, "scaled", streams("scaled", per_second=3), 240) as load:
            for pods in (MANY, FEW):
                _scale(release, installed, watch, pods)
                _each_decides(watch)
            load.stop()
            answers = load.answers()
    finally:
        release.install(installed)
    row = report.record("scaled", answers, watch)
    row.expect_lossless()
    serving = [pod for pod, (allowed, denied) in row.pods.items() if allowed + denied]
    assert len(serving) >= MANY, row.pods


def _scale(release: Release, installed: dict[str, object], watch: Watch, pods: int) -> None:
    watch.mark(f"to {pods} pods")
    release.install(installed, {"replicaCount": pods})
    eventually(
        lambda: len(watch.ready()) == len(watch.pods()) == pods,
        within=timeouts.HELM,
        what=f"{pods} pods",
    )


def _each_decides(watch: Watch) -> None:
    """Wait until each pod that is ready has decided about requests."""

    def all_have() -> bool:
        decided = watch.decisions()
        return all(decided.get(pod) and decided[pod].total() for pod in watch.ready())

    eventually(all_have, within=timeouts.POD, what="every pod decides")
