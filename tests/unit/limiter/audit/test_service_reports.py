"""One replica's statements: how often they are made, and that none of it hurts anybody."""

import logging

import pytest

from fleetlimit.errors import StoreRefused
from fleetlimit.limiter.active_policies import ActivePolicies
from fleetlimit.limiter.audit.detector import LAG_US
from fleetlimit.limiter.audit.sample import UsageSample
from fleetlimit.limiter.audit.service import (
    DEFAULT_CALLERS,
    INTERVAL_SECONDS,
    TTL_US,
    AuditService,
)
from fleetlimit.limiter.bucket_events import BucketEvents
from fleetlimit.limiter.circuit_breaker import BreakerSettings, CircuitBreaker
from fleetlimit.limiter.events import AuditReported, StoreFailed
from fleetlimit.limiter.limiter import Limiter
from fleetlimit.stores.memory import MemoryStore
from support.limiter import FakeStore, ManualSleep, Recorder, timeout_error
from support.limiter import ManualClock as ProcessClock


class AuditServiceBench:
    """One replica's audit over a store that does what it is told."""

    def __init__(self, *, failures: int = 3) -> None:
        self.store = FakeStore(ProcessClock())
        self.recorder = Recorder()
        self.pauses = ManualSleep()
        tell = self.recorder.on_event
        self.breaker = CircuitBreaker(
            BreakerSettings(failures=failures), self.store.open, tell, sleep=self.pauses
        )
        events = BucketEvents()
        self.audit = AuditService(
            self.store,
            self.breaker,
            tell,
            ProcessClock(),
            policies=ActivePolicies(tell, events),
            sample=UsageSample(DEFAULT_CALLERS, events),
            replica="me",
            sleep=self.pauses,
        )


async def test_a_statement_every_two_seconds_and_a_last_one() -> None:
    """The first is not made at once: there is nothing to state yet."""
    office = AuditServiceBench()
    office.audit.start()
    for beat in (1, 2):
        await office.pauses.wait_for_calls(beat)
        assert office.store.count("exchange_reports") == beat - 1
        office.pauses.finish()
        await office.store.wait_until_done("exchange_reports", beat)
    assert office.pauses.requested.entries[:2] == [INTERVAL_SECONDS] * 2
    await office.audit.aclose()
    assert office.store.count("exchange_reports") == 3
    await office.audit.aclose()
    assert office.store.count("exchange_reports") == 3


async def test_a_store_that_refuses_statements_hurts_nobody() -> None:
    """It is told of, as often as it happens, and opens no breaker."""
    office = AuditServiceBench(failures=1)
    office.store.errors["exchange_reports"] = refused = StoreRefused("no", kind="permission")
    for _ in range(3):
        await office.audit.run_once()
    assert office.recorder.of(StoreFailed) == [StoreFailed("exchange_reports", refused)] * 3
    assert office.recorder.of(AuditReported) == [AuditReported(())] * 3
    assert office.breaker.state == "closed"


async def test_a_store_that_is_away_is_not_asked() -> None:
    """While the breaker is open."""
    office = AuditServiceBench(failures=1)
    office.store.down = timeout_error()
    with pytest.raises(type(office.store.down)):
        await office.breaker.call("heartbeat", office.store.open)
    await office.audit.run_once()
    assert office.store.count("exchange_reports") == 0
    assert office.recorder.of(AuditReported) == [AuditReported(())]
    await office.breaker.aclose()


async def test_a_fault_of_the_audit_is_logged_and_ends_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The next statement is made all the same."""
    office = AuditServiceBench()
    office.store.errors["exchange_reports"] = ZeroDivisionError()  # type: ignore[assignment]  # a fault, no error of ours
    office.audit.start()
    with caplog.at_level(logging.ERROR, "fleetlimit"):
        for beat in (1, 2):
            await office.pauses.wait_for_calls(beat)
            office.pauses.finish()
        await office.pauses.wait_for_calls(3)
    assert [record.message for record in caplog.records] == ["audit.failed"] * 2
    office.store.errors.clear()
    await office.audit.aclose()


async def test_no_audit() -> None:
    """With 0 keys no statement is made."""
    store = FakeStore(ProcessClock())
    limiter = Limiter(store, local=MemoryStore(), audit_callers=0)
    await limiter.start()
    await limiter.aclose()
    assert store.count("exchange_reports") == 0


async def test_statements_are_old_enough_to_be_complete() -> None:
    """A slot is judged later than a replica that misses two statements makes the third."""
    assert LAG_US > TTL_US >= 3 * INTERVAL_SECONDS * 1_000_000
