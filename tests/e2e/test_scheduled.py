"""Experiment 13: the pods of every values file are scheduled, and every node can be drained."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import pytest
import yaml

from support import e2e_timeouts as timeouts
from support.e2e_cluster import Cluster
from support.e2e_release import CHART, NAME, Release
from support.e2e_skeleton import skeletons
from support.eventually import eventually
from support.tool import ROOT

_ZONE: Final = "topology.kubernetes.io/zone"
_LAYOUTS: Final[dict[str, tuple[tuple[str, str] | None, int | None]]] = {
    "nodes without zones": (None, None),
    "zones a and b with 4 pods": (("zone-a", "zone-b"), 4),
}
"""Zones of the two workers, and the number of API pods, by default that of the values."""
_FILES: Final = (
    *sorted((CHART / "ci").glob("*.yaml")),
    ROOT / "deploy/values/production.yaml",
    ROOT / "deploy/observability/fleetlimit.yaml",
    ROOT / "deploy/examples/orders/values.yaml",
)
"""Values of this chart; those of other charts are in deploy/values, too."""


@pytest.fixture(scope="module", params=_LAYOUTS)
def pods_in_layout(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[int | None]:
    """Number of API pods of a layout, while the workers are in its zones."""
    zones, pods = _LAYOUTS[request.param]
    workers = _workers(cluster)
    assert len(workers) == 2, f"the layouts are for two workers, not for {workers}"
    before = [_zone(cluster, each) for each in workers]
    with ExitStack() as undo:
        for worker, zone in zip(workers, before, strict=True):
            undo.callback(_set_zone, cluster, worker, zone)
        for worker, zone in zip(workers, zones or ("", ""), strict=True):
            _set_zone(cluster, worker, zone)
        yield pods


@pytest.mark.experiment(number=13)
def test_pods_of_every_values_file_are_scheduled_and_drained(
    cluster: Cluster,
    another_release: Callable[..., Release],
    image: str,
    pods_in_layout: int | None,
    folder: Path,
) -> None:
    """All pods are scheduled, and the drain of each worker ends with all pods on the other one.

    The releases of all files run at the same time, each in its namespace, because their drains take
    as long as one drain.
    """
    releases = {file: another_release(f"scheduled-{file.stem}") for file in _FILES}
    for file, release in releases.items():
        _apply(release, image, pods_in_layout, f"--values={file}")
    _wait_for_pods(*releases.values())
    for worker in _workers(cluster):
        with _drained(cluster, worker, folder, within=timeouts.DRAINED):
            _wait_for_pods(*releases.values())


@pytest.mark.experiment(number=13)
def test_pods_that_must_be_spread_over_zones_fail_the_experiment(
    another_release: Callable[..., Release], image: str, pods_in_layout: int | None, folder: Path
) -> None:
    """Without zones no pod is scheduled, and in two zones with four pods the drain does not end."""
    release = another_release("spread-over-zones")
    spread = ("--set=topologySpread.whenUnsatisfiable=DoNotSchedule", "--set=valkey.enabled=false")
    store = "--set=externalRedis.url=redis://store:6379/0"
    if pods_in_layout is None:
        _apply(release, image, None, *spread, store)
        with pytest.raises(AssertionError, match="all pods of spread-over-zones run"):
            _wait_for_pods(release, within=timeouts.UNSCHEDULED)
        return
    _apply(release, image, pods_in_layout, *spread, store)
    _wait_for_pods(release)
    worker = _workers(release.cluster)[0]
    with (
        pytest.raises(AssertionError, match="disruption budget"),
        _drained(release.cluster, worker, folder, within=timeouts.UNSCHEDULED),
    ):
        pass


def _apply(release: Release, image: str, pods: int | None, *options: str) -> None:
    """Create the skeletons of the chart."""
    rendered = release.helm("template", str(CHART), *options)
    objects = skeletons(rendered, image, pods=pods)
    release.kubectl("apply", "--filename=-", stdin=yaml.safe_dump_all(objects))


def _wait_for_pods(*releases: Release, within: float = timeouts.POD) -> None:
    for each in releases:
        what = f"all pods of {each.namespace} run"
        eventually(partial(_all_run, each), within=within, what=what)


def _all_run(release: Release) -> bool:
    """Return whether each workload has as many ready pods as it should, and no more."""
    found = json.loads(release.kubectl("get", "deployments,statefulsets", "-ojson"))["items"]
    running = release.kubectl("get", "pods", "-oname").split()
    wanted = sum(each["spec"]["replicas"] for each in found)
    ready = sum(each["status"].get("readyReplicas", 0) for each in found)
    return bool(found) and wanted == ready == len(running)


@contextmanager
def _drained(cluster: Cluster, node: str, folder: Path, *, within: float) -> Iterator[None]:
    """Drain a node of the pods of all releases, and uncordon it at the end.

    Raises:
        AssertionError: The drain did not end in time; the message has its output.
    """
    drain = (
        *("drain", node, f"--pod-selector=app.kubernetes.io/instance={NAME}"),
        *("--delete-emptydir-data", "--ignore-daemonsets", f"--timeout={within}s"),
    )
    try:
        output = cluster.kubectl(*drain, timeout=within + timeouts.COMMAND)
        (folder / f"{node}.log").write_text(output)
        yield
    finally:
        cluster.kubectl("uncordon", node)


def _workers(cluster: Cluster) -> list[str]:
    without = "--selector=!node-role.kubernetes.io/control-plane"
    names = cluster.kubectl("get", "nodes", without, "-oname").split()
    return sorted(each.removeprefix("node/") for each in names)


def _zone(cluster: Cluster, node: str) -> str:
    labels = json.loads(cluster.kubectl("get", f"node/{node}", "-ojson"))["metadata"]["labels"]
    return str(labels.get(_ZONE, ""))


def _set_zone(cluster: Cluster, node: str, zone: str) -> None:
    """Set the zone of a node, or remove it if it is empty."""
    label = f"{_ZONE}={zone}" if zone else f"{_ZONE}-"
    cluster.kubectl("label", f"node/{node}", label, "--overwrite")
