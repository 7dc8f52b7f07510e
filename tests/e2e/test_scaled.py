"""Experiment 4: the number of pods changes under load, by an upgrade."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support import e2e_timeouts as timeouts
from support.e2e_load import Load
from support.e2e_release import Release
from support.e2e_report import Report
from support.e2e_setup import PATIENT, streams
from support.e2e_tally import until_offered
from support.e2e_watch import Watch
from support.eventually import eventually

FEW, MANY = 2, 6


@pytest.mark.experiment(number=4)
@pytest.mark.measured
def test_changed_replica_count_loses_no_request(
    release: Release, installed: dict[str, object], image: str, folder: Path, report: Report
) -> None:
    """Two pods, six and two again admit as much as one; no pod restarts, no request is lost."""
    with (
        _few(release, installed),
        Watch(release, folder) as watch,
        Load(release, image, "scaled", streams("scaled", per_second=4), 240) as load,
    ):
        _until_all_decide(watch)
        until_offered(watch, load)
        for pods in (MANY, FEW):
            watch.begin(f"scaled to {pods}")
            _scale(release, installed, pods)
            _until_all_decide(watch)
            until_offered(watch, load)
        load.stop()
        answers = load.answers()
        row = report.record("scaled from two pods to six and back", answers, watch)
    row.expect_lossless()
    assert len(row.pods) == MANY
    assert all(allowed + denied for allowed, denied in row.pods.values()), row.pods


@contextmanager
def _few(release: Release, installed: dict[str, object]) -> Iterator[None]:
    """Start with two pods, and restore the number of other experiments at the end."""
    try:
        _scale(release, installed, FEW)
        yield
    finally:
        release.install(installed)


def _scale(release: Release, installed: dict[str, object], pods: int) -> None:
    """Set the number of pods and wait until exactly those are ready."""
    release.install(installed, PATIENT, {"replicaCount": pods})
    eventually(lambda: _pods(release) == ["True"] * pods, within=timeouts.POD, what=f"{pods} pods")


def _pods(release: Release) -> list[str]:
    """Return the readiness of each pod, terminating ones included."""
    ready = '{.status.conditions[?(@.type=="Ready")].status}'
    listed = f'--output=jsonpath={{range .items[*]}}{ready}{{"\\n"}}{{end}}'
    return release.kubectl("get", "pods", f"--selector={release.selector}", listed).splitlines()


def _until_all_decide(watch: Watch) -> None:
    """Wait until each pod has decided requests since the start."""

    def all_have() -> bool:
        decided = watch.decisions()
        return all(pod in decided and decided[pod].total() for pod in watch.ready())

    eventually(all_have, within=timeouts.POD, what="every pod decides")
