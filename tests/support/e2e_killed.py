"""Pods that are killed under load, and what their loss explains."""

from collections.abc import Mapping
from typing import Final

from kr8s.objects import Pod

from fleetlimit.core.decision import Outcome
from support import e2e_timeouts as timeouts
from support.e2e_release import Release
from support.e2e_report import Run
from support.e2e_watch import Watch
from support.eventually import eventually

_WITHIN_US: Final = round(timeouts.LOST_POD * 1_000_000)


def kill(release: Release, pod: str) -> None:
    """Kill a pod without a grace period."""
    Pod.get(pod, namespace=release.namespace, api=release.cluster.api).delete(
        grace_period=0, force=True
    )


def until_living_agree(watch: Watch) -> None:
    """Wait until counters and logs of the living pods have the same denials."""
    eventually(
        lambda: all(_agree(watch, pod) for pod in watch.ready()),
        within=timeouts.TALLIES_AGREE,
        what="counters and logs of the living agree",
    )


def check_killed(run: Run, killed_us: Mapping[str, int]) -> None:
    """Check that only what killed pods took with them is missing.

    Args:
        run: Figures of the experiment.
        killed_us: When each killed pod was killed, in microseconds since the epoch.

    Raises:
        AssertionError: A request without a response was lost at another time, or counters differ
            from the responses that clients got.
    """
    row, answers, watch = run.row, run.answers, run.watch
    stray = [
        fault
        for fault in answers.faults
        if not any(
            0 <= fault.done_us - at_us <= _WITHIN_US + fault.duration_us
            for at_us in killed_us.values()
        )
    ]
    assert not stray, f"lost without a pod being lost: {stray[:5]}"
    # Counts of a killed pod after its last scrape are lost; the other counts agree.
    unseen = [
        answers.between(watch.last_seen_us(pod) - 100_000, at_us + _WITHIN_US)
        for pod, at_us in killed_us.items()
    ]
    faults = len(answers.faults)
    for counted, seen, gone in (
        (row.counters[0], row.admitted, sum(each.admitted for each in unseen)),
        (row.counters[1], row.denied, sum(each.denied for each in unseen)),
    ):
        assert seen - gone <= counted <= seen + faults, (seen, gone, counted, faults)


def _agree(watch: Watch, pod: str) -> bool:
    watch.read_counters()
    counted = watch.decisions()[pod]
    denied = sum(count for (_, outcome), count in counted.items() if outcome == Outcome.DENIED)
    return denied == watch.logged(pod).total()
