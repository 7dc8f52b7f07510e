"""Experiment 4: a node is drained under load."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from support import e2e_timeouts as timeouts
from support.e2e_broken import WITH_STORE
from support.e2e_load import Load
from support.e2e_release import Release
from support.e2e_report import Report
from support.e2e_setup import streams
from support.e2e_tally import until_offered
from support.e2e_watch import Watch
from support.eventually import eventually

_BUDGET_VIOLATED = "Cannot evict pod as it would violate the pod's disruption budget."


@pytest.mark.experiment(number=4)
@pytest.mark.measured(*WITH_STORE)
def test_drained_node_loses_one_pod_at_a_time(
    release: Release, image: str, folder: Path, report: Report
) -> None:
    """A drained node loses its pods one at a time, and no request is lost."""
    # The only pod of the store is on a node that is not drained.
    store = _nodes(release, "app.kubernetes.io/component=valkey")
    with _drained(release, store.pop(), folder / "before.log"):
        pass
    (node,) = _nodes(release, release.selector)
    with (
        Watch(release, folder) as watch,
        Load(release, image, "drained", streams("drained", per_second=4), 240) as load,
    ):
        before = _wait_for_deciding_pods(watch, 3)
        until_offered(watch, load)
        watch.begin("node drained")
        with _drained(release, node, folder / "drain.log", watch) as fewest:
            watch.mark("drain is over")
            after = _wait_for_deciding_pods(watch, 3)
        until_offered(watch, load)
        load.stop()
        answers = load.answers()
        rejected = (folder / "drain.log").read_text().count(_BUDGET_VIOLATED)
        more = {"fewest_ready": fewest, "evictions_rejected": rejected}
        row = report.record("node drained", answers, watch, more)
    row.expect_lossless()
    assert not before & after
    assert fewest == len(before) - 1, f"{fewest} pods were left of {len(before)}"
    assert rejected, "the budget rejected no eviction"


@contextmanager
def _drained(release: Release, node: str, log: Path, watch: Watch | None = None) -> Iterator[int]:
    """Drain a node of the release, and uncordon it at the end.

    Yields:
        The minimum number of ready pods during the drain.
    """
    command = release.cluster.kubectl_command(
        # Only pods of the release: the pod of the load stays.
        *("drain", node, f"--pod-selector={release.selector}", "--delete-emptydir-data"),
        f"--timeout={timeouts.POD}s",
    )
    seen = []
    try:
        with (
            log.open("w") as file,
            subprocess.Popen(command, stdout=file, stderr=file) as drain,
        ):
            while drain.returncode is None:
                if watch is not None:
                    seen.append(len(watch.ready()))
                with suppress(subprocess.TimeoutExpired):
                    drain.wait(timeouts.DRAIN_POLL)
        assert not drain.returncode, log.read_text()
        yield min(seen, default=0)
    finally:
        release.kubectl("uncordon", node)


def _nodes(release: Release, selector: str) -> set[str]:
    """Return the nodes of the selected pods that are not terminating."""
    listed = "--output=jsonpath={.items[*].spec.nodeName}"
    instance = f"app.kubernetes.io/instance={release.name}"
    return set(release.kubectl("get", "pods", f"--selector={instance},{selector}", listed).split())


def _wait_for_deciding_pods(watch: Watch, pods: int) -> set[str]:
    """Wait until this many pods are ready and have decided requests, and return them."""

    def deciding_pods() -> set[str]:
        ready, decided = set(watch.ready()), watch.decisions()
        using = {pod for pod in ready if pod in decided and decided[pod].total()}
        return using if len(using) == len(ready) == pods else set()

    return eventually(deciding_pods, within=timeouts.POD, what=f"{pods} pods decide")
