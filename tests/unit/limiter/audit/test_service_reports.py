"""One replica's statements: how often they are made, and that none of it hurts anybody."""

import logging

import pytest

from fleetlimit.errors import StoreRefused
from fleetlimit.limiter.active_policies import PolicyBook
from fleetlimit.limiter.audit.detector import LAG_US
from fleetlimit.limiter.audit.service import INTERVAL_SECONDS, TTL_US, Audit
from fleetlimit.limiter.circuit_breaker import Breaker, BreakerSettings
from fleetlimit.limiter.events import Audited, StoreFailed
from fleetlimit.limiter.limiter import Limiter
from fleetlimit.stores.memory import MemoryStore
from support.limiter import MovedClock as ProcessClock
from support.limiter import Pauses, Recorder, ToldStore, away


class Office:
    """One replica's audit over a store that does what it is told."""

    def __init__(self, *, failures: int = 3) -> None:
        self.store = ToldStore(ProcessClock())
        self.recorder = Recorder()
        self.pauses = Pauses()
        tell = self.recorder.observe
        self.breaker = Breaker(
            BreakerSettings(failures=failures), self.store.open, tell, sleep=self.pauses
        )
        self.audit = Audit(
            self.store,
            self.breaker,
            tell,
            ProcessClock(),
            PolicyBook(tell),
            replica="me",
            sleep=self.pauses,
        )


async def test_a_statement_every_two_seconds_and_a_last_one() -> None:
    """The first is not made at once: there is nothing to state yet."""
    office = Office()
    office.audit.start()
    for beat in (1, 2):
        await office.pauses.begun(beat)
        assert office.store.count("audit") == beat - 1
        office.pauses.end()
        await office.store.did("audit", beat)
    assert office.pauses.asked.lines[:2] == [INTERVAL_SECONDS] * 2
    await office.audit.aclose()
    assert office.store.count("audit") == 3
    await office.audit.aclose()
    assert office.store.count("audit") == 3


async def test_a_store_that_refuses_statements_hurts_nobody() -> None:
    """It is told of, as often as it happens, and opens no breaker."""
    office = Office(failures=1)
    office.store.errors["audit"] = refused = StoreRefused("no", kind="permission")
    for _ in range(3):
        await office.audit.beat()
    assert office.recorder.of(StoreFailed) == [StoreFailed("audit", refused)] * 3
    assert office.recorder.of(Audited) == [Audited(())] * 3
    assert office.breaker.state == "closed"


async def test_a_store_that_is_away_is_not_asked() -> None:
    """While the breaker is open."""
    office = Office(failures=1)
    office.store.down = away()
    with pytest.raises(type(office.store.down)):
        await office.breaker.call("heartbeat", office.store.open)
    await office.audit.beat()
    assert office.store.count("audit") == 0
    assert office.recorder.of(Audited) == [Audited(())]
    await office.breaker.aclose()


async def test_a_fault_of_the_audit_is_logged_and_ends_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The next statement is made all the same."""
    office = Office()
    office.store.errors["audit"] = ZeroDivisionError()  # type: ignore[assignment]  # a fault, no error of ours
    office.audit.start()
    with caplog.at_level(logging.ERROR, "fleetlimit"):
        for beat in (1, 2):
            await office.pauses.begun(beat)
            office.pauses.end()
        await office.pauses.begun(3)
    assert [record.message for record in caplog.records] == ["audit.failed"] * 2
    office.store.errors.clear()
    await office.audit.aclose()


async def test_no_audit() -> None:
    """With 0 keys no statement is made."""
    store = ToldStore(ProcessClock())
    limiter = Limiter(store, local=MemoryStore(), audit_keys=0)
    await limiter.start()
    await limiter.aclose()
    assert store.count("audit") == 0


async def test_statements_are_old_enough_to_be_complete() -> None:
    """A slot is judged later than a replica that misses two statements makes the third."""
    assert LAG_US > TTL_US >= 3 * INTERVAL_SECONDS * 1_000_000
