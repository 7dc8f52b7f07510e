"""Experiment 14: pods prefetch units, while pods are killed and replaced and the store pauses."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fleetlimit.core.decision import Source
from fleetlimit.core.quota import Algorithm, rate_quota
from support import e2e_timeouts as timeouts
from support.e2e_broken import WITH_STORE
from support.e2e_killed import check_killed, kill, until_living_agree
from support.e2e_load import Load, Stream
from support.e2e_release import Release
from support.e2e_report import Report, measure
from support.e2e_setup import ALGORITHMS, callers, streams
from support.e2e_store import Store
from support.e2e_tally import until_offered
from support.e2e_watch import Watch

NAME = "prefetched"
CALLERS = 2
PER_SECOND = 14
POLICIES = """\
version: 1
identity:
  api_keys: {file: /etc/fleetlimit/keys/keys.yaml}
policies:
  - name: auto-bucket
    match: {routes: ["/items/{item_id}"]}
    limits: [{rate: 4/second, burst: 48}]
    prefetch: auto
    on_store_error: deny
  - name: auto-window
    match: {routes: [/exports]}
    limits: [{rate: 48 per 12 s, algorithm: fixed_window}]
    prefetch: auto
    on_store_error: deny
  - name: quarter
    match: {routes: [/whoami]}
    limits: [{rate: 4/second, burst: 48}]
    prefetch: 0.25
    on_store_error: deny
"""
BUCKET = rate_quota("4/second", burst=48)
QUOTAS = {
    "auto-bucket": BUCKET,
    "auto-window": rate_quota("48 per 12 s", algorithm=Algorithm.FIXED_WINDOW),
    "quarter": BUCKET,
}
"""Limits so high that `auto` prefetches several units; callers send three times as much."""


@pytest.mark.experiment(number=14)
@pytest.mark.measured(*WITH_STORE)
def test_prefetched_units_are_never_beyond_the_limit(
    another_release: Callable[[str], Release],
    installed: dict[str, object],
    image: str,
    folder: Path,
    report: Report,
) -> None:
    """Units that a killed pod held are lost, and no unit is spent twice."""
    release = another_release(NAME)
    release.install(installed, {"policies": {"inline": POLICIES, "validate": False}})
    with Watch(release, folder) as watch:
        with Load(release, image, NAME, _load(), 300) as load:
            until_offered(watch, load, quotas=QUOTAS)
            killed = watch.ready()[0]
            killed_us = {killed: watch.begin("pod killed")}
            kill(release, killed)
            until_offered(watch, load, quotas=QUOTAS)
            watch.begin("store paused")
            Store(release).pause(timeouts.PAUSE)
            until_offered(watch, load, quotas=QUOTAS)
            before = watch.ready()
            watch.begin("rolling restart")
            release.restart()
            watch.until_replaced(before, by="restart")
            until_offered(watch, load, quotas=QUOTAS)
            load.stop()
            answers = load.answers()
        until_living_agree(watch)
        by_source = watch.checks_by_source()
        more = {"killed": len(killed_us), "checks_by_source": dict(by_source)}
        run = measure("units prefetched", answers, watch, more, quotas=QUOTAS)
        report.add(run)
        run.expect_proof()
        run.row.expect(beyond_policy=0, audited=0)
        run.row.expect_use()
        check_killed(run, killed_us)
        assert by_source[Source.PREFETCH]


def _load() -> tuple[Stream, ...]:
    """Return streams of few callers, each with many units to prefetch."""
    names = dict(zip(ALGORITHMS, QUOTAS, strict=True))
    return tuple(
        replace(each, policy=names[each.policy])
        for each in streams(NAME, per_second=PER_SECOND)
        if each.caller in callers(NAME)[:CALLERS]
    )
