"""A trace collector that fails: requests are unaffected, and dropped spans are counted."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from fleetlimit.telemetry import names
from support import e2e_timeouts as timeouts
from support.e2e_broken import WITH_STORE
from support.e2e_jaeger import Jaeger
from support.e2e_load import Load
from support.e2e_release import Release
from support.e2e_report import Report
from support.e2e_setup import streams
from support.e2e_tally import until_offered
from support.e2e_watch import Watch
from support.eventually import eventually

_FAULTS: dict[str, Callable[[Jaeger], AbstractContextManager[None]]] = {
    "down": Jaeger.down,
    "frozen": Jaeger.frozen,
}


@pytest.fixture
def watched(observed: Release, folder: Path) -> Iterator[Watch]:
    """Observer of the `observed` release, from the start of the experiment."""
    with Watch(observed, folder) as watching:
        yield watching


@pytest.mark.measured(*WITH_STORE)
@pytest.mark.parametrize("fault", _FAULTS)
def test_failing_collector_delays_no_request(
    observed: Release, image: str, watched: Watch, report: Report, fault: str
) -> None:
    """Only spans are lost, which every pod counts; no request waits for the collector."""
    name, watch = f"collector-{fault}", watched
    with Load(observed, image, name, streams(name, per_second=4), 180) as load:
        until_offered(watch, load)
        with _FAULTS[fault](Jaeger(observed.cluster)):
            start_us = watch.begin(f"collector {fault}")
            eventually(
                lambda: all(_dropped(watch, pod) for pod in watch.ready()),
                within=timeouts.DROPPED,
                what="every pod drops spans",
            )
            until_offered(watch, load)
            end_us = watch.begin("collector returns")
        until_offered(watch, load)
        load.stop()
        answers = load.answers()
        during = answers.between(start_us, end_us)
        dropped = {pod: _dropped(watch, pod) for pod in watch.ready()}
        more = {"p50_ms": during.slowest_ms(0.5), "dropped": sum(dropped.values())}
        row = report.record(f"trace collector {fault}", answers, watch, more)
    row.expect_lossless()
    assert row.slowest_ms < timeouts.STUCK_REQUEST * 1000


def _dropped(watch: Watch, pod: str) -> int:
    watch.read_counters()
    return watch.counted(names.SPANS_DROPPED)[pod][()]
