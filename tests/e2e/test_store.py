"""Experiment 5: Valkey's pod is killed under load, stays away for a while, and comes back empty."""

import json

import pytest
from kr8s.objects import Pod, StatefulSet

from headgate.core.decision import Outcome
from headgate.server.demo.allowance import permitted
from headgate.telemetry import names
from support import e2e_timeouts as timeouts
from support.e2e_eventually import eventually
from support.e2e_load import Load
from support.e2e_release import Release
from support.e2e_report import Report
from support.e2e_scene import QUOTAS, callers, streams
from support.e2e_watch import Watch

_UNAVAILABLE = 503
_BREAKER_OPEN = names.BREAKER_OPEN.name


@pytest.mark.experiment(number=5)
def test_store(release: Release, image: str, watch: Watch, report: Report) -> None:
    """Each policy does what it says for that, no request waits, and all return within seconds."""
    before = _lost(watch)
    with Load(release, image, "store", streams("store", per_second=3), 240) as load:
        eventually(
            lambda: watch.decided("bucket", Outcome.ALLOWED) >= 60,
            within=timeouts.POD,
            what="requests are decided by the store",
        )
        killed_us = watch.mark("store killed")
        _take_away(release)
        # The container outlives the pod that was deleted by a moment.
        eventually(
            lambda: all(watch.scrape(pod)[_BREAKER_OPEN,] for pod in watch.ready()),
            within=timeouts.POD,
            what="every pod sees that the store is away",
        )
        away_us = watch.mark("seen by all")
        eventually(
            lambda: watch.decided("fixed", Outcome.FAIL_CLOSED) >= 120,
            within=timeouts.POD,
            what="requests are decided without the store",
        )
        returning_us = watch.mark("store started")
        _bring_back(release)
        ready_us = watch.mark("store ready")
        eventually(
            lambda: all(now == 1 + then for now, then in zip(_lost(watch), before, strict=True)),
            within=timeouts.POD,
            what="every pod counts that the state is lost",
        )
        sent = watch.decided("fixed", Outcome.ALLOWED)
        eventually(
            lambda: watch.decided("fixed", Outcome.ALLOWED) >= sent + 100,
            within=timeouts.POD,
            what="requests are decided by the store again",
        )
        load.stop()
        answers = load.answers()
    # Local shares are full at the start, and so is what the store comes back with.
    bursts = 2 * QUOTAS["bucket"].burst
    beyond = {
        "bucket": bursts,
        "fixed": QUOTAS["fixed"].limit,
        "sliding": answers.of(policy="sliding", caller=callers("store")[0]).admitted,
    }
    closed = answers.of(policy="fixed").server_errors
    recovery_s = max(0.0, *((each.done_us - ready_us) / 1e6 for each in closed))
    more = {
        "away_s": (ready_us - away_us) / 1e6,
        "fail_closed": len(closed),
        "recovery_s": recovery_s,
    }
    row = report.record("store away", answers, watch, more, beyond=beyond)
    away = answers.between(away_us, returning_us)
    # Refusals from before are remembered until their time to retry comes.
    assert set(away.of(policy="fixed").statuses) <= {_UNAVAILABLE, 429}, "deny"
    assert away.of(policy="fixed").statuses[_UNAVAILABLE] > 0
    assert set(away.of(policy="sliding").statuses) <= {200, 429}, "allow"
    assert set(away.of(policy="bucket").statuses) == {200, 429}, "local"
    for caller in callers("store"):
        mine = away.of(policy="bucket", caller=caller)
        assert mine.admitted <= permitted([QUOTAS["bucket"]], mine.start_us, mine.end_us)
    assert len(answers.server_errors) == len(closed)
    assert {each.status for each in closed} == {_UNAVAILABLE}
    assert all(each.sent_us >= killed_us - 1_000_000 for each in closed)
    assert recovery_s <= timeouts.RECOVERY
    assert row.slowest_ms <= timeouts.SLOWEST_REQUEST * 1000
    row.expect(overshoot=0, refused=0, broken=0)
    assert all(watch.events(names.LOG_STATE_LOST)[pod] == 1 for pod in watch.ready())


def _lost(watch: Watch) -> list[float]:
    series = (names.STORE_STATE_LOST.name,)
    return [watch.scrape(pod)[series] for pod in watch.ready()]


def _take_away(release: Release) -> None:
    """Kill the pod, and let no other come."""
    pod = Pod.get(f"{release.valkey}-0", namespace=release.namespace, api=release.cluster.api)
    _scale(release, 0)
    pod.delete(grace_period=0, force=True)
    eventually(lambda: not pod.exists(), within=timeouts.POD, what="the store is away")


def _scale(release: Release, replicas: int) -> None:
    store = StatefulSet.get(release.valkey, namespace=release.namespace, api=release.cluster.api)
    store.patch({"spec": {"replicas": replicas}})


def _bring_back(release: Release) -> None:
    _scale(release, 1)

    def ready() -> bool:
        path = f"/apis/apps/v1/namespaces/{release.namespace}/statefulsets/{release.valkey}"
        return bool(json.loads(release.cluster.get(path))["status"].get("readyReplicas"))

    eventually(ready, within=timeouts.POD, what="the store is back")
