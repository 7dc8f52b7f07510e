"""Experiment 2: pods are killed under load, one after the other."""

import pytest

from support import e2e_timeouts as timeouts
from support.e2e_killed import check_killed, kill, until_living_agree
from support.e2e_load import Load
from support.e2e_release import Release
from support.e2e_report import Report, measure
from support.e2e_setup import streams
from support.e2e_tally import until_offered
from support.e2e_watch import Watch
from support.eventually import eventually

KILLS = 4


@pytest.mark.experiment(number=2)
@pytest.mark.measured
def test_killed_pods_lose_only_requests_in_flight(
    release: Release, image: str, watch: Watch, report: Report
) -> None:
    """Units admitted by a killed pod stay spent, and only its requests in flight are lost."""
    killed_us: dict[str, int] = {}
    with Load(release, image, "killed", streams("killed", per_second=4), 180) as load:
        for _ in range(KILLS):
            pod = eventually(lambda: _oldest(watch), within=timeouts.POD, what="3 pods")
            until_offered(watch, load)
            killed_us[pod] = watch.begin("pod killed")
            kill(release, pod)
        eventually(lambda: _oldest(watch), within=timeouts.POD, what="3 pods are ready again")
        until_offered(watch, load)
        load.stop()
        answers = load.answers()
    until_living_agree(watch)
    run = measure("pods killed one after the other", answers, watch, {"killed": len(killed_us)})
    report.add(run)
    run.expect_proof()
    row = run.row
    row.expect(beyond_policy=0, audited=0, server_errors=0)
    row.expect_use()
    check_killed(run, killed_us)
    assert len(killed_us) == KILLS


def _oldest(watch: Watch) -> str:
    """Return the name of the oldest of three ready pods; empty if there are fewer."""
    ready = watch.ready()
    pods = sorted(watch.pods(), key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
    return str(pods[0]["metadata"]["name"]) if len(ready) == len(pods) == 3 else ""
