"""Experiment 9: the chart is installed, upgraded, rolled back and uninstalled."""

import json
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from fleetlimit.core.decision import Outcome
from support import e2e_timeouts as timeouts
from support.e2e_release import Release
from support.e2e_watch import Watch
from support.eventually import eventually

_POLICIES = """\
version: 1
policies:
  - name: exports
    match: {methods: [POST], routes: [/exports]}
    limits: [{rate: 5/minute}]
  - name: daily
    match: {methods: [GET], routes: ["/items/{item_id}"]}
    limits: [{rate: 3/day}]
    on_store_error: deny
"""
_OF_KUBERNETES = {"configmap/kube-root-ca.crt", "serviceaccount/default"}
_SPENT = [200, 200, 200, 429]
_VALUES = {
    "replicaCount": 2,
    "policies": {"inline": _POLICIES},
    # The test needs durability of the counts, not speed: a write may wait for the disk.
    "settings": {"storeTimeoutSeconds": 2},
    "valkey": {"persistence": {"enabled": True}},
}
# Equal bounds: Helm could take over a number set by the autoscaler only by force.
_AUTOSCALED = {"autoscaling": {"enabled": True, "minReplicas": 2, "maxReplicas": 2}}
_CHANGED = _AUTOSCALED | {
    "settings": {"logLevel": "WARNING"},
    "networkPolicy": {"enabled": True},
    # This also restarts the store.
    "valkey": {"podAnnotations": {"e2e.fleetlimit/revision": "2"}},
}
_BROKEN = _AUTOSCALED | {"image": {"tag": "none-such"}}


@pytest.mark.experiment(number=9)
def test_upgrade_and_rollback_keep_secrets_and_counts(
    another_release: Callable[[str], Release], installed: dict[str, object], folder: Path
) -> None:
    """Upgrade and rollback keep secrets and counts, and uninstall removes everything."""
    release = another_release("lifecycle")
    release.restrict()
    _expect_nothing(release)
    release.install(installed, _VALUES)
    objects, secrets = _made(release), _secrets(release)
    with Watch(release, folder) as watch:
        release.helm("test")
        watch.read_counters()
        assert watch.decided("exports", Outcome.ALLOWED) == 5
        assert watch.decided("exports", Outcome.DENIED) == 1
    assert [_get_status(release) for _ in _SPENT] == _SPENT

    release.install(installed, _VALUES, _CHANGED)
    assert _made(release) - objects == {
        "horizontalpodautoscaler.autoscaling/fleetlimit",
        "networkpolicy.networking.k8s.io/fleetlimit",
        "networkpolicy.networking.k8s.io/fleetlimit-valkey",
    }
    assert _secrets(release) == secrets
    assert _get_status(release) == _SPENT[-1]
    release.helm("test")

    _roll_back(release)
    assert _made(release) == objects
    assert _secrets(release) == secrets
    assert _get_status(release) == _SPENT[-1]

    release.install(installed, _VALUES, _CHANGED)
    release.helm("uninstall", "--wait")
    _expect_nothing(release)


@pytest.mark.experiment(number=9)
def test_failed_upgrade_removes_no_pod(
    another_release: Callable[[str], Release], installed: dict[str, object]
) -> None:
    """A failing upgrade removes no pod, and the rollback removes all its objects."""
    release = another_release("failed-upgrade")
    release.restrict()
    _expect_nothing(release)
    release.install(installed, _VALUES)
    objects = _made(release)
    first = [_get_status(release) for _ in _SPENT[:2]]

    with pytest.raises(AssertionError, match="UPGRADE FAILED"):
        release.install(installed, _VALUES, _BROKEN, within=timeouts.FAILED_UPGRADE)
    assert _made(release) - objects == {"horizontalpodautoscaler.autoscaling/fleetlimit"}
    assert _available(release) == 2
    assert [*first, *(_get_status(release) for _ in _SPENT[2:])] == _SPENT

    _roll_back(release)
    assert _made(release) == objects
    assert _available(release) == 2
    assert _get_status(release) == _SPENT[-1]
    release.helm("test")

    release.helm("uninstall", "--wait")
    _expect_nothing(release)


def _roll_back(release: Release) -> None:
    release.helm("rollback", "--wait", f"--timeout={timeouts.HELM}s")


def _get_status(release: Release) -> int:
    """Return the status of a request from one constant address, that of the API server.

    It is repeated while the store is not reachable.
    """
    service = f"/api/v1/namespaces/{release.namespace}/services/{release.name}:http"

    def status() -> int:
        try:
            release.cluster.get(f"{service}/proxy/items/1")
        except HTTPError as error:
            return 0 if error.code == HTTPStatus.SERVICE_UNAVAILABLE else error.code
        return HTTPStatus.OK

    return eventually(status, within=timeouts.POD, what="the store is reachable")


def _secrets(release: Release) -> dict[str, Any]:
    """Return the password of the store and the key that hashes callers."""
    names = (release.name, release.valkey)
    return {
        name: json.loads(release.kubectl("get", f"secret/{name}", "-ojson"))["data"]
        for name in names
    }


def _available(release: Release) -> int:
    found = release.kubectl("get", f"deployment/{release.name}", "-ojson")
    return int(json.loads(found)["status"]["availableReplicas"])


def _made(release: Release) -> set[str]:
    """Return the objects of the release, with those that Kubernetes derives from Services."""
    return _everything(release, "--selector=app.kubernetes.io/managed-by=Helm")


def _everything(release: Release, *options: str) -> set[str]:
    """Return the objects of the namespace, of every kind except events."""
    kinds = release.kubectl("api-resources", "--verbs=list", "--namespaced", "--output=name")
    found = release.kubectl("get", ",".join(kinds.split()), "--output=name", *options).split()
    return {each for each in found if not each.startswith("event")}


def _expect_nothing(release: Release) -> None:
    """Wait until the namespace has only default objects, and no volume is left."""

    def is_empty() -> bool:
        volumes = json.loads(release.kubectl("get", "persistentvolumes", "-ojson"))["items"]
        claims = [each["spec"].get("claimRef", {}).get("namespace") for each in volumes]
        assert release.namespace not in claims, claims
        found = _everything(release)
        assert found == _OF_KUBERNETES, found ^ _OF_KUBERNETES
        return True

    eventually(is_empty, within=timeouts.POD, what="nothing is in the namespace")
