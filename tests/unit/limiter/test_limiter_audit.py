"""The audit: who compares, what is found, how long it is shown, and that it hurts nobody."""

import logging
from collections.abc import AsyncIterator

import pytest

from headgate.core.audit import SLOT_US
from headgate.core.errors import StoreRefused
from headgate.core.keys import KeyScheme
from headgate.core.policy import KeyPart, Mode, OnStoreError, PolicySet
from headgate.core.quota import SECOND_US, Algorithm
from headgate.core.subject import Principal, Subject
from headgate.limiter.audit import HELD_US, INTERVAL_SECONDS, TTL_US, Audit
from headgate.limiter.auditor import LAG_US
from headgate.limiter.book import PolicyBook
from headgate.limiter.breaker import Breaker, BreakerSettings
from headgate.limiter.events import Audited, OvershootFound, PolicyAudit, StoreFailed
from headgate.limiter.limiter import Limiter
from headgate.stores.memory import MemoryStore
from support.audit import Fleet
from support.clock import MovedClock
from support.limiter import Bench, Pauses, Recorder, ToldStore, away, in_flight, rate, window
from support.limiter import MovedClock as ProcessClock
from support.stores import quota_of

MINUTE = rate("p", "6/minute")


class Town:
    """Three replicas over one store in memory that can be made to forget its buckets."""

    def __init__(self, *policies: object, keys: int = 32) -> None:
        self.clock = MovedClock()
        self.store = MemoryStore(self.clock)
        given = [policy for policy in policies if policy is not None] or [MINUTE]
        self.fleet = Fleet(self.clock, lambda: self.store, *given, keys=keys)  # type: ignore[arg-type]  # policies

    async def lose_buckets(self) -> None:
        """Forget all buckets, and nothing else."""
        await self.store.forget(list(self.store._buckets))


@pytest.fixture
async def town() -> AsyncIterator[Town]:
    """Return three replicas with one policy of 6 a minute."""
    found = Town()
    yield found
    await found.fleet.aclose()


async def saturate(town: Town, *names: str) -> int:
    """Let one caller ask at these replicas until all of them refuse."""
    return sum([await town.fleet.spend(name, "p", "ann", times=9) for name in names])


async def test_a_limit_that_is_kept_reads_0(town: Town) -> None:
    """One replica audits; the others say what they let in, and nobody more than is permitted."""
    assert await saturate(town, "a", "b", "c") == 6
    for _ in range(12):
        await town.fleet.beats(5)
        await saturate(town, "b", "c")
    await town.fleet.settled()
    assert town.fleet.found() == []
    assert [town.fleet.said(name, "p").keys for name in "abc"] == [1, 0, 0]
    admitted, permitted = (town.fleet.total("p", figure) for figure in ("admitted", "permitted"))
    assert 12 <= admitted <= permitted
    assert town.fleet.total("p", "windows") >= 12


async def test_what_is_let_in_after_a_loss_is_found(town: Town) -> None:
    """Buckets that start anew let in once more what all replicas together had let in."""
    await saturate(town, "a", "b", "c")
    await town.fleet.beats(1)
    await town.lose_buckets()
    assert await saturate(town, "b", "c") == 6
    await town.fleet.settled()
    assert town.fleet.overshoot("p") == 5
    caller = KeyScheme().hash("p\0principal\0ann")
    assert town.fleet.found() == [OvershootFound("p", "tb60", caller, 5)]
    assert town.fleet.total("p", "admitted") == 12


async def test_a_loss_is_found_whoever_audits_by_then(town: Town) -> None:
    """A replica that begins to audit begins with the store's own word, and not with nothing.

    Of the six units, what the slots' ends and the rounding of that word leave open is not found.
    """
    for _ in range(12):
        await saturate(town, "a", "b", "c")
        await town.fleet.beats(5)
    del town.fleet.members["a"]
    for _ in range(6):
        await saturate(town, "b", "c")
        await town.fleet.beats(5)
    assert (town.fleet.said("b", "p").keys, town.fleet.found()) == (1, [])
    await town.lose_buckets()
    assert await saturate(town, "b", "c") == 6
    await town.fleet.settled()
    assert town.fleet.overshoot("p") >= 3


async def test_a_loss_is_found_after_an_outage(town: Town) -> None:
    """What was let in just before the store went away is stated when it is back."""
    await town.fleet.beats(30)
    await saturate(town, "b")
    await town.lose_buckets()
    # Nothing is stated while the store is away, for longer than statements are kept.
    town.clock.advance(32 * SECOND_US)
    assert await saturate(town, "c") == 6
    await town.fleet.settled()
    # Six were permitted, and three more in 32 s; the slots' ends leave one open.
    assert town.fleet.overshoot("p") == 12 - 6 - 3 - 1


async def test_what_was_found_is_shown_for_minutes(town: Town) -> None:
    """It falls back by itself, also at a replica that does not audit any more."""
    await saturate(town, "a")
    await town.lose_buckets()
    await saturate(town, "b")
    await town.fleet.settled()
    assert town.fleet.said("a", "p").overshoot == 5
    town.fleet.join("0")
    await town.fleet.beats(2)
    await saturate(town, "a")
    await town.fleet.settled()
    assert town.fleet.said("0", "p").keys == 1
    assert [town.fleet.said(name, "p").overshoot for name in "0a"] == [0, 5]
    town.clock.advance(HELD_US)
    await town.fleet.beat()
    assert town.fleet.overshoot("p") == 0


async def test_the_caller_with_the_most_is_shown(town: Town) -> None:
    """Not the sum over callers; one line names the worst."""
    for caller in ("ann", "bob"):
        await town.fleet.spend("a", "p", caller, times=6)
    await town.lose_buckets()
    await town.fleet.spend("b", "p", "ann", times=2)
    await town.fleet.spend("b", "p", "bob", times=4)
    await town.fleet.settled()
    assert town.fleet.overshoot("p") == 3
    assert [event.units for event in town.fleet.found()] == [3]


async def test_a_reset_is_no_overshoot(town: Town) -> None:
    """At whichever replica it was, and in the midst of a slot."""
    for _ in range(4):
        await saturate(town, "a", "b")
        await town.fleet.beats(7)
        await town.fleet["c"].reset("p", principal="ann")
        await saturate(town, "a", "b")
    await town.fleet.settled()
    assert town.fleet.found() == []


async def test_a_refund_makes_room() -> None:
    """What one replica gives back another one may let in; what was spent is not forgotten."""
    town = Town()
    held = await town.fleet["a"].reserve("p", principal="ann", cost=6)
    await town.fleet.beats(1)
    await held.commit(1)
    assert await saturate(town, "b") == 5
    await town.fleet.settled()
    assert (town.fleet.found(), town.fleet.said("a", "p").keys) == ([], 1)
    await town.lose_buckets()
    await saturate(town, "b")
    await town.fleet.settled()
    assert town.fleet.overshoot("p") > 0


async def test_what_is_spent_without_asking_is_no_overshoot() -> None:
    """A commit above the reservation is beyond the limit by agreement."""
    town = Town()
    held = await town.fleet["a"].reserve("p", principal="ann", cost=6)
    await held.commit(12)
    await town.fleet.settled()
    assert town.fleet.found() == []


async def test_a_refund_that_may_have_been_made(town: Town) -> None:
    """When the store's answer is lost the caller's audit starts anew, and reads nothing false."""
    held = await town.fleet["a"].reserve("p", principal="ann", cost=6)
    await town.fleet.beats(20)

    async def lost(*_: object) -> None:
        await MemoryStore.settle(town.store, *_)  # type: ignore[arg-type]  # as it was called
        raise away()

    settle, town.store.settle = town.store.settle, lost  # type: ignore[assignment,method-assign]  # this once
    await held.refund()
    town.store.settle = settle  # type: ignore[method-assign]  # as it was
    assert await saturate(town, "b") == 6
    await town.fleet.settled()
    assert town.fleet.found() == []


async def test_a_refund_that_was_not_asked_for() -> None:
    """While the breaker is open nothing is given back, and the audit goes on."""
    async with Bench(MINUTE, failures=1) as bench:
        held = await bench.limiter.reserve("p", principal="ann")
        bench.store.down = away()
        await bench.limiter.check("p", principal="ann")
        await held.refund()
        assert '"breaks":{}' in bench.limiter.audit.sample.state()


async def test_who_dies_after_giving_back(town: Town) -> None:
    """Its refunds may not all be stated: the caller's audit starts anew without it."""
    held = [await town.fleet["c"].reserve("p", principal="ann", cost=3) for _ in range(2)]
    await held[0].refund()
    await town.fleet.beats(20)
    assert town.fleet.said("a", "p").keys == 1
    await held[1].refund()
    del town.fleet.members["c"]
    assert await saturate(town, "b") == 6
    await town.fleet.settled()
    assert (town.fleet.found(), town.fleet.said("a", "p").keys) == ([], 0)
    await saturate(town, "b")
    await town.fleet.settled()
    await saturate(town, "b")
    await town.fleet.settled()
    assert (town.fleet.found(), town.fleet.said("a", "p").keys) == ([], 1)


async def test_only_the_smallest_of_all_are_audited() -> None:
    """The others are not counted as admitted either, once the bound is known."""
    town = Town(keys=2)
    for _ in range(30):
        for number in range(9):
            await town.fleet.spend("abc"[number % 3], "p", f"caller{number}")
        await town.fleet.beats(5)
    await town.fleet.settled()
    assert town.fleet.said("a", "p").keys == 2
    admitted, permitted = (town.fleet.total("p", figure) for figure in ("admitted", "permitted"))
    assert 0 < admitted <= permitted
    bounds = town.fleet["b"].audit._bounds
    assert bounds is not None
    assert list(bounds) == ["p token_bucket 6 60000000 6"]


async def test_more_slots_than_are_kept(town: Town) -> None:
    """Where slots are missing the audit starts anew, and does not take them for empty."""
    await saturate(town, "b")
    await town.fleet.settled()
    a = town.fleet.members.pop("a")
    # The auditor alone hears nothing for a while, and comes back.
    for _ in range(12):
        await town.fleet.beats(5)
        await saturate(town, "b")
    town.fleet.members["a"] = a
    await town.fleet.settled()
    assert (town.fleet.found(), town.fleet.said("a", "p").keys) == ([], 1)


async def test_a_ledger_that_was_left_alone_for_long(town: Town) -> None:
    """After more than an hour the audit starts anew."""
    await saturate(town, "b")
    await town.fleet.settled()
    town.clock.advance(721 * SLOT_US)
    await town.fleet.settled()
    assert (town.fleet.found(), town.fleet.said("a", "p").keys) == ([], 0)


async def test_what_is_not_let_in_by_the_store_is_not_audited() -> None:
    """Shadow policies, leases, local shares, and whatever is let in without the store."""
    shadow = rate("s", "1/minute", mode=Mode.SHADOW)
    local = rate("l", "1/minute")
    opened = rate("o", "1/minute", on_store_error=OnStoreError.ALLOW)
    async with Bench(shadow, local, opened, in_flight("c", 1), failures=9) as bench:
        await bench.limiter.check("s", principal="ann")
        await bench.limiter.reserve("c", principal="ann")
        bench.store.down = away()
        for policy in ("l", "o"):
            assert (await bench.limiter.check(policy, principal="ann")).allowed
        assert '"accounts":{}' in bench.limiter.audit.sample.state()


async def test_each_limit_is_judged_by_itself() -> None:
    """A policy of two limits shows the worse one."""
    town = Town(rate("p", "6/minute", quota_of(Algorithm.SLIDING_LOG, 6)))
    await saturate(town, "a", "b")
    await town.lose_buckets()
    await saturate(town, "b", "c")
    await town.fleet.settled()
    (event,) = town.fleet.found()
    assert (event.limit, event.units) == ("sl60", 6)
    assert town.fleet.overshoot("p") == 6


async def test_a_policy_that_is_gone_is_not_told_of(town: Town) -> None:
    """Once nobody was counted under it for a while."""
    await saturate(town, "a")
    await town.fleet.beats(20)
    for limiter in town.fleet.members.values():
        limiter.policies.replace(PolicySet([rate("q", "1/minute")]))
    await town.fleet.beats(310)
    last = town.fleet.recorders["a"].of(Audited)[-1]
    assert last == Audited((PolicyAudit("q", 0, 0, 0, 0, 0.0),))


async def test_a_statement_of_another_release(town: Town) -> None:
    """Is left out, and the rest is audited."""
    await saturate(town, "a")
    for _ in range(8):
        await town.store.audit("z", "nonsense", "nonsense", TTL_US)
        await town.fleet.beats(2)
    assert town.fleet.said("a", "p").keys == 1


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
    with caplog.at_level(logging.ERROR, "headgate"):
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


async def test_who_compares_again_begins_anew(town: Town) -> None:
    """What happened while another one compared is not known, and so is nothing of before."""
    await saturate(town, "c")
    await town.fleet.settled()
    town.fleet.join("0")
    await town.fleet.settled()
    assert [town.fleet.said(name, "p").keys for name in "0a"] == [0, 0]
    del town.fleet.members["0"]
    await town.fleet.settled()
    # Nobody was let in since.
    assert town.fleet.said("a", "p").keys == 0


async def test_the_last_statement_tells_of_all() -> None:
    """A replica that ends in good order is missed nothing of, and another one audits at once."""
    town = Town()
    await town.fleet.beats(20)
    await town.fleet["a"].start()
    await saturate(town, "a")
    first = town.fleet.members.pop("a")
    first.store.aclose = town.store.open  # type: ignore[method-assign]  # the others still use it
    await first.aclose()
    await town.lose_buckets()
    await saturate(town, "b")
    await town.fleet.settled()
    assert town.fleet.said("b", "p").keys == 1
    assert town.fleet.overshoot("p") == 5


async def test_statements_are_old_enough_to_be_complete() -> None:
    """A slot is judged later than a replica that misses two statements makes the third."""
    assert LAG_US > TTL_US >= 3 * INTERVAL_SECONDS * 1_000_000


async def test_who_asks_under_several_keys() -> None:
    """The hash in what was found is the caller's, whatever parts the key has."""
    policy = rate("p", window(2), key=(KeyPart.parse("route"), KeyPart.parse("principal")))
    town = Town(policy)
    subject = Subject(principal=Principal("ann"), route="POST /exports")
    for name in "ab":
        for _ in range(2):
            await town.fleet[name].check("p", subject=subject)
        await town.lose_buckets()
    await town.fleet.settled()
    (event,) = town.fleet.found()
    assert (event.units, len(event.caller)) == (2, 16 + 1 + 16)
