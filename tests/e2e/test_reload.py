"""Experiment 7: the ConfigMap of policies changes under load."""

import time
from collections.abc import Callable

import pytest

from fleetlimit.telemetry import names
from support import e2e_timeouts as timeouts
from support.e2e_load import Load
from support.e2e_release import Release
from support.e2e_report import Report
from support.e2e_setup import POLICIES, streams
from support.e2e_tally import until_offered
from support.e2e_watch import Watch
from support.eventually import eventually

CHANGED = POLICIES.replace("10/hour", "11/hour")
BROKEN = POLICIES.replace("10/hour", "many")


@pytest.mark.experiment(number=7)
@pytest.mark.measured
def test_changed_policies_apply_without_restart(
    release: Release, installed: dict[str, object], image: str, watch: Watch, report: Report
) -> None:
    """Every pod applies a change without a restart; an invalid one is reported and ignored."""

    def change(policies: str) -> None:
        release.install(installed, {"policies": {"inline": policies}})

    def limits() -> set[float]:
        found = (watch.scrape(pod) for pod in watch.ready())
        series = names.POLICY_LIMIT.name
        return {
            each[key] for each in found for key in each if key[0] == series and "spoofed" in key
        }

    def failures() -> list[float]:
        series = (names.POLICY_RELOADS.name, names.FAILURE)
        return [watch.scrape(pod).get(series, 0.0) for pod in watch.ready()]

    before, failed = _containers(watch), failures()
    with Load(release, image, "reload", streams("reload", per_second=4), 400) as load:
        try:
            until_offered(watch, load)
            watch.begin("policies changed")
            change(CHANGED)
            followed = _timed(lambda: limits() == {11}, "every pod serves the changed policies")
            until_offered(watch, load)
            watch.begin("policies broken")
            change(BROKEN)
            reported = _timed(
                lambda: all(now > then for now, then in zip(failures(), failed, strict=True)),
                "every pod reports the broken policies",
            )
            assert limits() == {11}
            until_offered(watch, load)
            load.stop()
            answers = load.answers()
        finally:
            change(POLICIES)
    row = report.record(
        "policies changed, then broken",
        answers,
        watch,
        {"followed_s": followed, "rejected_by_all_s": reported},
    )
    assert _containers(watch) == before
    assert len(before) == 3
    assert all(watch.events(names.LOG_POLICIES_REJECTED)[pod] == 1 for pod in watch.ready())
    row.expect_lossless()


def _timed(condition: Callable[[], bool], what: str) -> float:
    start = time.monotonic()
    eventually(condition, within=timeouts.POLICIES_APPLIED, what=what)
    return round(time.monotonic() - start, 1)


def _containers(watch: Watch) -> set[str]:
    """Return values that change with a restart of a container."""
    return {
        status["containerID"]
        for pod in watch.pods()
        for status in pod["status"]["containerStatuses"]
    }
