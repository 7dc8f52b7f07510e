"""Experiment 11: changes of the values that an operator makes, and mistakes in them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fleetlimit.demo.expected import max_admitted
from support import e2e_timeouts as timeouts
from support.e2e_broken import WITH_STORE
from support.e2e_cluster import images
from support.e2e_external import PORT, External, values
from support.e2e_load import Load
from support.e2e_outage import DENY
from support.e2e_release import Release
from support.e2e_report import Report
from support.e2e_series import overshoot_of_all
from support.e2e_setup import QUOTAS, streams
from support.e2e_tally import Promise, until_offered
from support.e2e_watch import Watch
from support.eventually import eventually
from support.helm import with_each_helm

_FILES = ("python", "-c", "import os; print(*os.listdir('/etc/fleetlimit/secrets'))")
_REMOVED = "fleetlimit_admin_token"
_SERVER = (
    *("valkey-server", "--save", "", "--maxmemory-policy", "noeviction"),
    *("--protected-mode", "no"),
)
_POLICIES = "version: 1\npolicies:\n  - {name: daily, limits: [{rate: 3/day}]}\n"
_VALUES: dict[str, object] = {
    "replicaCount": 2,
    "policies": {"inline": _POLICIES, "validate": True},
    # Those of the other experiments are objects of their releases.
    **{name: [] for name in ("extraObjects", "extraVolumes", "extraVolumeMounts")},
}


@with_each_helm
@pytest.mark.experiment(number=11)
def test_removed_token_is_gone_and_invalid_file_changes_nothing(
    another_release: Callable[..., Release], installed: dict[str, object], binary: str
) -> None:
    """A secret that leaves the values leaves the cluster, and an upgrade validates the policies."""
    release = another_release("changed-values", binary=binary)
    release.restrict()
    release.install(installed, _VALUES, {"adminToken": {"value": "the-token-of-an-admin"}})
    assert _REMOVED in _secret(release)
    assert _REMOVED in _mounted(release)
    # As a chart with `stringData` leaves it: no field of the release.
    stale = {"data": {"fleetlimit_store_password": "c3RhbGU="}}
    release.kubectl("patch", "secret", release.name, "--type=merge", f"--patch={json.dumps(stale)}")

    release.install(installed, _VALUES)
    assert _REMOVED not in _secret(release)
    assert set(_mounted(release).split()) & {_REMOVED, "fleetlimit_key_secret"} == {
        "fleetlimit_key_secret"
    }
    pods = _pods(release)

    wrong = {"policies": {"inline": _POLICIES.replace("3/day", "3/dya")}}
    with pytest.raises(AssertionError, match="pre-upgrade hooks failed"):
        release.install(installed, _VALUES, wrong)
    log = release.kubectl("logs", f"job/{release.name}-validate")
    assert "/etc/fleetlimit/policies/policies.yaml:3: " in log
    assert _pods(release) <= pods
    active = json.loads(release.kubectl("get", f"configmap/{release.name}-policies", "-ojson"))
    assert active["data"]["policies.yaml"] == _POLICIES

    release.install(installed, _VALUES)
    assert _pods(release) <= pods


@pytest.mark.experiment(number=11)
@pytest.mark.measured(*WITH_STORE)
def test_change_of_the_store_fails_no_request(
    another_release: Callable[[str], Release],
    installed: dict[str, object],
    image: str,
    folder: Path,
    report: Report,
) -> None:
    """With `valkey.keep` the pods of before have their store until they are replaced.

    While both stores serve, each caller has the limit of each.
    """
    release = another_release("change-of-store")
    release.install(installed, {"replicaCount": 2})
    names = images()
    store = External(release, names["VALKEY_IMAGE"], image)
    store.start("store", 1, *_SERVER)
    external = values(f"redis://store:{PORT}/0")
    asked = streams("change-of-store", per_second=4, policies=[DENY])
    with Watch(release, folder) as watch:
        with Load(release, image, "change-of-store", asked, 300) as load:
            until_offered(watch, load)
            before = _pods(release)
            start_us = watch.begin("helm upgrade")
            release.install(installed, external, {"valkey": {"enabled": False, "keep": True}})
            eventually(
                lambda: not before & _pods(release),
                within=timeouts.POD,
                what="the pods of before have ended",
            )
            end_us = watch.mark("the old pods have ended")
            until_offered(watch, load)
            watch.begin("the old store goes")
            release.install(installed, external)
            until_offered(watch, load)
            assert load.running
            load.stop()
            answers = load.answers()
        again = max_admitted([QUOTAS[DENY]], start_us, end_us)
        what = "from the bundled store to an external one"
        row = report.record(what, answers, watch, promise=Promise(lost={DENY: again}))
        row.expect(server_errors=0, refused=0, broken=0)
        row.expect_use()
        after = answers.between(end_us, answers.end_us)
        assert overshoot_of_all(QUOTAS[DENY], after) == 0
        assert set(answers.statuses) == {200, 429}
        assert not _objects(release, "statefulset")


def _secret(release: Release) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(release.kubectl("get", f"secret/{release.name}", "-ojson"))[
        "data"
    ]
    return found


def _mounted(release: Release) -> str:
    return release.kubectl("exec", f"deployment/{release.name}", "--", *_FILES)


def _pods(release: Release) -> set[str]:
    return set(release.kubectl("get", "pods", f"-l{release.selector}", "-oname").split())


def _objects(release: Release, kind: str) -> list[str]:
    return release.kubectl("get", kind, "-oname").split()
