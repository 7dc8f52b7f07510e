"""Experiment 10: a Cluster of three shards."""

from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pytest

from fleetlimit.core.keys import KeyScheme
from fleetlimit.telemetry import names
from support import e2e_timeouts as timeouts
from support.acl import ACL_RULES, CLUSTER_RULES
from support.e2e_cluster import images
from support.e2e_external import PORT, External, values
from support.e2e_load import Load
from support.e2e_release import Release
from support.e2e_report import Report
from support.e2e_setup import EXPERIMENTS, callers, streams
from support.e2e_watch import Watch
from support.eventually import eventually

NAME = "shards"
SHARDS = ("shards-0", "shards-1", "shards-2")
LOGIN, ADMIN = "of-the-user", "of-the-operator"
KEYS = KeyScheme()
OF_THE_FLEET = {KEYS.replicas_key, KEYS.epoch_key, KEYS.reports_key, KEYS.auditors_key}
SERVER = (
    *("valkey-server", "--save", "", "--maxmemory-policy", "noeviction"),
    *("--cluster-enabled", "yes", "--cluster-announce-ip", "$(POD_IP)"),
    *("--requirepass", ADMIN, "--user", "fleetlimit", "on", f">{LOGIN}"),
    *ACL_RULES,
    *CLUSTER_RULES,
)
CLI = ("valkey-cli", "--pass", ADMIN, "--no-auth-warning")


@pytest.mark.experiment(number=10)
def test_cluster_of_three_shards_admits_as_much_as_one_server(
    another_release: Callable[[str], Release],
    installed: dict[str, object],
    image: str,
    folder: Path,
    report: Report,
) -> None:
    """Buckets are spread over all shards, and each caller gets the limit of a single server."""
    release = another_release(NAME)
    store = External(release, images()["VALKEY_IMAGE"], image)
    addresses = store.start(NAME, len(SHARDS), *SERVER)
    nodes = [f"{address}:{PORT}" for address in addresses]
    store.run(SHARDS[0], *CLI, "--cluster", "create", *nodes, "--cluster-yes")
    eventually(
        lambda: all(_is_up(store, shard) for shard in SHARDS),
        within=timeouts.POD,
        what="every shard serves",
    )
    login = {"username": "fleetlimit", "password": LOGIN}
    release.install(installed, values(f"redis+cluster://{NAME}:{PORT}", **login))
    # Few callers exceed their limits; many stay below, which makes many keys.
    others = [each for each in EXPERIMENTS if each != NAME]
    crowd = [streams(each, per_second=0.3, policies=["bucket"]) for each in others]
    load = (*streams(NAME, per_second=4), *chain.from_iterable(crowd))
    with Watch(release, folder) as watch:
        with Load(release, image, NAME, load, 20) as loading:
            eventually(
                lambda: all(_buckets(store, shard) for shard in SHARDS),
                within=timeouts.POD,
                what="every shard has buckets",
            )
            answers = loading.answers()
        more = {"calls": [_calls(store, shard) for shard in SHARDS]}
        row = report.record("three shards", answers, watch, more)
        row.expect(overshoot=0, audited=0, server_errors=0, refused=0, broken=0)
        below = (answers.of(caller=caller) for each in others for caller in callers(each))
        assert {status for mine in below for status in mine.statuses} == {200}
        row.expect_pods(2)
        assert not any(+each for each in watch.counted(names.STORE_ERRORS).values())
    assert not any(store.run(shard, *CLI, "acl", "log") for shard in SHARDS)


def _is_up(store: External, shard: str) -> bool:
    """Return whether a shard serves: a new Cluster is down for seconds after its creation."""
    return "cluster_state:ok" in store.run(shard, *CLI, "cluster", "info").splitlines()


def _buckets(store: External, shard: str) -> set[str]:
    """Return the bucket keys of a shard, without those of membership and audit."""
    return set(store.run(shard, *CLI, "--scan").splitlines()) - OF_THE_FLEET


def _calls(store: External, shard: str) -> int:
    """Return the number of scripts that a shard has run."""
    (line,) = (
        line
        for line in store.run(shard, *CLI, "info", "commandstats").splitlines()
        if line.startswith("cmdstat_evalsha:")
    )
    return int(line.split("calls=")[1].split(",")[0])
