"""Experiment 10: failover of a store with Sentinel, set up like deploy/values/valkey-ha.yaml."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from fleetlimit.telemetry import names
from support import e2e_timeouts as timeouts
from support.acl import ACL_RULES
from support.e2e_broken import WITH_STORE
from support.e2e_cluster import images
from support.e2e_external import PORT, External, values
from support.e2e_load import Answers, Load
from support.e2e_outage import (
    DENY,
    SPENT,
    Outage,
    check_results_in_outages,
    load,
    promised,
    recovery_s,
    until_over,
    until_seen,
    until_spent,
    until_used,
)
from support.e2e_release import Release
from support.e2e_report import Report
from support.e2e_series import overshoot_of_all
from support.e2e_setup import QUOTAS, callers
from support.e2e_tally import until_offered
from support.e2e_watch import Watch
from support.eventually import eventually
from support.tool import ROOT

NAME = "sentinel"
HA = yaml.safe_load((ROOT / "deploy/values/valkey-ha.yaml").read_text())
SENTINEL_PORT = 26379
REPLICAS = ("replica-0", "replica-1")
DATA, SENTINELS, LOGIN = "of-the-data", "of-the-sentinels", "of-the-user"
URL = f"redis+sentinel://sentinel:{SENTINEL_PORT}/mymaster/0?sentinel_password={SENTINELS}"
SERVER = (
    *("valkey-server", "--save", "", "--maxmemory-policy", "noeviction"),
    *("--requirepass", DATA, "--primaryauth", DATA, "--replica-announce-ip", "$(POD_IP)"),
    *("--min-replicas-to-write", str(HA["replica"]["minReplicasToWrite"])),
    *("--min-replicas-max-lag", str(HA["replica"]["minReplicasMaxLag"])),
    *("--user", "fleetlimit", "on", f">{LOGIN}", *ACL_RULES),
)
CONFIGURATION = f"""\
port {SENTINEL_PORT}
dir /data
requirepass {SENTINELS}
sentinel monitor mymaster {{primary}} {PORT} {HA["sentinel"]["quorum"]}
sentinel auth-pass mymaster {DATA}
sentinel down-after-milliseconds mymaster {HA["sentinel"]["downAfterMilliseconds"]}
sentinel failover-timeout mymaster {HA["sentinel"]["failoverTimeout"]}
"""


@pytest.mark.experiment(number=10)
@pytest.mark.measured(*WITH_STORE)
def test_failover_by_sentinel_keeps_the_counts(
    another_release: Callable[[str], Release],
    installed: dict[str, object],
    image: str,
    folder: Path,
    report: Report,
) -> None:
    """A replica takes over with all counts; until then each policy applies `on_store_error`."""
    release = another_release(NAME)
    store = External(release, images()["VALKEY_IMAGE"], image)
    _start(store)
    login = {"username": "fleetlimit", "password": LOGIN}
    release.install(installed, values(URL, **login))
    with Watch(release, folder) as watch:
        with Load(release, image, NAME, load(NAME, SPENT), 240) as loading:
            answers, outage = _fail_over(store, watch, loading)
        more = {
            "fail_closed": len(answers.server_errors),
            "recovery_s": recovery_s(answers, [outage]),
        }
        # Replication is asynchronous: the last admissions may be lost and admitted again.
        promise = replace(promised([outage]), lost={DENY: _in_the_last_moment(answers, outage)})
        what = "primary killed, failover by Sentinel"
        row = report.record(what, answers, watch, more, promise=promise)
        check_results_in_outages(answers, [outage])
        assert more["recovery_s"] <= timeouts.FAILOVER + timeouts.RECOVERY
        assert row.slowest_ms < timeouts.STUCK_REQUEST * 1000
        row.expect(refused=0, broken=0)
        after = answers.between(outage.over_us, answers.end_us)
        for policy, quota in QUOTAS.items():
            assert overshoot_of_all(quota, after.of(policy=policy)) == 0, policy
        # Spent units stay spent.
        assert after.of(policy=SPENT).denied
        assert after.of(policy=SPENT).admitted == 0
        for pod in watch.ready():
            assert watch.events(names.LOG_SERVER_CHANGED)[pod] == 1, pod
            assert watch.events(names.LOG_STATE_LOST)[pod] == 0, pod


def _start(store: External) -> None:
    """Start a primary, two replicas and three sentinels, and wait for mutual discovery."""
    (primary,) = store.start("primary", 1, *SERVER)
    store.start("replica", len(REPLICAS), *SERVER, "--replicaof", primary, str(PORT))
    store.secret("sentinel", {"sentinel.conf": CONFIGURATION.format(primary=primary)})
    command = ("valkey-server", "/data/sentinel.conf", "--sentinel")
    store.start("sentinel", 3, *command, files="sentinel", port=SENTINEL_PORT)
    eventually(
        lambda: all("slaves=2,sentinels=3" in _primary_state(store, number) for number in range(3)),
        within=timeouts.POD,
        what="the sentinels know of both replicas and of each other",
    )


def _primary_state(store: External, number: int) -> str:
    """Return the state of the primary as a sentinel reports it."""
    cli = ("valkey-cli", "-p", str(SENTINEL_PORT), "--pass", SENTINELS, "--no-auth-warning")
    return store.run(f"sentinel-{number}", *cli, "info", "sentinel").splitlines()[-1]


def _fail_over(store: External, watch: Watch, loading: Load) -> tuple[Answers, Outage]:
    until_used(watch)
    until_spent(watch)
    until_offered(watch, loading)
    killed_us = watch.begin("primary killed")
    store.kill("primary-0")
    seen_us = until_seen(watch)
    over_us = until_over(watch)
    until_used(watch)
    until_offered(watch, loading)
    loading.stop()
    answers = loading.answers()
    # "MASTER MODE enabled", or "PRIMARY MODE enabled" since Valkey 9.
    (promoted_us,) = (at_us for pod in REPLICAS for at_us in store.logged_us(pod, " MODE enabled"))
    # The recovery is measured from the loss, as clients experience it.
    return answers, Outage(killed_us, seen_us, promoted_us, killed_us, over_us)


def _in_the_last_moment(answers: Answers, outage: Outage) -> int:
    """Return the maximum requests of one caller that may not have been replicated."""
    start_us = outage.start_us - round(timeouts.REPLICATION * 1_000_000)
    last = answers.of(policy=DENY).between(start_us, outage.seen_us)
    return max(last.of(caller=caller).admitted for caller in callers(NAME))
