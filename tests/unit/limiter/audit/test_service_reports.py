"""Audit service: the schedule of the reports, and failures."""

import logging

import pytest

from fleetlimit.errors import StoreRejected
from fleetlimit.limiter.active_policies import ActivePolicies
from fleetlimit.limiter.audit.detector import LAG_US
from fleetlimit.limiter.audit.sample import UsageSample
from fleetlimit.limiter.audit.service import (
    DEFAULT_AUDIT_CALLERS,
    INTERVAL_SECONDS,
    TTL_US,
    AuditService,
)
from fleetlimit.limiter.bucket_events import BucketEvents
from fleetlimit.limiter.circuit_breaker import BreakerSettings, CircuitBreaker
from fleetlimit.limiter.events import AuditReported, StoreFailed
from fleetlimit.limiter.limiter import Limiter
from fleetlimit.stores.memory import MemoryStore
from support.clock import ManualClock
from support.limiter import FakeStore, ManualSleep, Recorder, timeout_error


class AuditServiceBench:
    """One replica's audit service over a fake store."""

    def __init__(self, *, failures: int = 3) -> None:
        self.store = FakeStore(ManualClock())
        self.recorder = Recorder()
        self.pauses = ManualSleep()
        emit = self.recorder.on_event
        self.breaker = CircuitBreaker(
            BreakerSettings(failures=failures), self.store.open, emit, sleep=self.pauses
        )
        events = BucketEvents()
        self.audit = AuditService(
            self.store,
            lambda: self.breaker,
            emit,
            ManualClock(),
            policies=ActivePolicies(emit, events),
            sample=UsageSample(DEFAULT_AUDIT_CALLERS, events),
            get_replica=lambda: "me",
            sleep=self.pauses,
        )


async def test_audit_service_reports_every_two_seconds_and_at_the_end() -> None:
    """There is no report at the start, because there is no usage yet."""
    bench = AuditServiceBench()
    bench.audit.start()
    for count in (1, 2):
        await bench.pauses.wait_for_calls(count)
        assert bench.store.count("exchange_reports") == count - 1
        bench.pauses.finish()
        await bench.store.wait_until_done("exchange_reports", count)
    assert bench.pauses.requested.entries[:2] == [INTERVAL_SECONDS] * 2
    await bench.audit.aclose()
    assert bench.store.count("exchange_reports") == 3
    await bench.audit.aclose()
    assert bench.store.count("exchange_reports") == 3


async def test_audit_service_failure_does_not_open_the_breaker() -> None:
    """Each failure is emitted."""
    bench = AuditServiceBench(failures=1)
    bench.store.errors["exchange_reports"] = StoreRejected("no", kind="permission")
    for _ in range(3):
        await bench.audit.run_once()
    failures = bench.recorder.of(StoreFailed)
    assert [(each.operation, str(each.error)) for each in failures] == [
        ("exchange_reports", "no")
    ] * 3
    assert bench.recorder.of(AuditReported) == [AuditReported(())] * 3
    assert bench.breaker.state == "closed"


async def test_audit_service_makes_no_call_while_the_breaker_is_open() -> None:
    """The store is not called."""
    bench = AuditServiceBench(failures=1)
    bench.store.down = timeout_error()
    with pytest.raises(type(bench.store.down)):
        await bench.breaker.call("heartbeat", bench.store.open)
    await bench.audit.run_once()
    assert bench.store.count("exchange_reports") == 0
    assert bench.recorder.of(AuditReported) == [AuditReported(())]
    await bench.breaker.aclose()


async def test_audit_service_logs_an_unexpected_error_and_continues(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The next report is sent."""
    bench = AuditServiceBench()
    bench.store.errors["exchange_reports"] = ZeroDivisionError()  # type: ignore[assignment]  # a fault, no error of ours
    bench.audit.start()
    with caplog.at_level(logging.ERROR, "fleetlimit"):
        for count in (1, 2):
            await bench.pauses.wait_for_calls(count)
            bench.pauses.finish()
        await bench.pauses.wait_for_calls(3)
    assert [record.message for record in caplog.records] == ["audit.failed"] * 2
    bench.store.errors.clear()
    await bench.audit.aclose()


async def test_audit_service_with_zero_callers_does_not_start() -> None:
    """With 0 callers no report is sent."""
    store = FakeStore(ManualClock())
    limiter = Limiter(store, local=MemoryStore(), audit_callers=0)
    await limiter.start()
    await limiter.aclose()
    assert store.count("exchange_reports") == 0


async def test_audit_lag_covers_two_lost_reports() -> None:
    """An interval is compared after a replica that misses two reports has sent the third."""
    assert LAG_US > TTL_US >= 3 * INTERVAL_SECONDS * 1_000_000
