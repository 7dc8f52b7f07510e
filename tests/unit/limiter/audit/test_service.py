"""The audit: who compares, what is found, how long it is shown, and that it hurts nobody."""

from fleetlimit.core.keys import KeyScheme
from fleetlimit.core.policy import KeyPart, Mode, OnStoreError, PolicySet
from fleetlimit.core.quota import SECOND_US, Algorithm
from fleetlimit.core.subject import Principal, Subject
from fleetlimit.limiter.audit.ledger import INTERVAL_US
from fleetlimit.limiter.audit.service import RETENTION_US, TTL_US
from fleetlimit.limiter.events import AuditReported, OvershootFound, PolicyAudit
from support.audit import AuditBench, saturate
from support.limiter import Bench, concurrency_policy, fixed_window, rate_policy, timeout_error
from support.stores import quota_of


async def test_a_limit_that_is_kept_reads_0(bench: AuditBench) -> None:
    """One replica audits; the others say what they let in, and nobody more than is permitted."""
    assert await saturate(bench, "a", "b", "c") == 6
    for _ in range(12):
        await bench.fleet.advance(5)
        await saturate(bench, "b", "c")
    await bench.fleet.advance_until_compared()
    assert bench.fleet.overshoots() == []
    assert [bench.fleet.last_audit(name, "p").callers for name in "abc"] == [1, 0, 0]
    admitted, permitted = (bench.fleet.total("p", figure) for figure in ("admitted", "permitted"))
    assert 12 <= admitted <= permitted
    assert bench.fleet.total("p", "intervals") >= 12


async def test_what_is_let_in_after_a_loss_is_found(bench: AuditBench) -> None:
    """Buckets that start anew let in once more what all replicas together had let in."""
    await saturate(bench, "a", "b", "c")
    await bench.fleet.advance(1)
    await bench.lose_buckets()
    assert await saturate(bench, "b", "c") == 6
    await bench.fleet.advance_until_compared()
    assert bench.fleet.overshoot("p") == 5
    caller = KeyScheme().digest("p\0principal\0ann")
    assert bench.fleet.overshoots() == [OvershootFound("p", "tb60", caller, 5)]
    assert bench.fleet.total("p", "admitted") == 12


async def test_a_loss_is_found_whoever_audits_by_then(bench: AuditBench) -> None:
    """A replica that begins to audit begins with the store's own word, and not with nothing.

    Of the six units, what the slots' ends and the rounding of that word leave open is not found.
    """
    for _ in range(12):
        await saturate(bench, "a", "b", "c")
        await bench.fleet.advance(5)
    del bench.fleet.members["a"]
    for _ in range(6):
        await saturate(bench, "b", "c")
        await bench.fleet.advance(5)
    assert (bench.fleet.last_audit("b", "p").callers, bench.fleet.overshoots()) == (
        1,
        [],
    )
    await bench.lose_buckets()
    assert await saturate(bench, "b", "c") == 6
    await bench.fleet.advance_until_compared()
    assert bench.fleet.overshoot("p") >= 3


async def test_a_loss_is_found_after_an_outage(bench: AuditBench) -> None:
    """What was let in just before the store went away is stated when it is back."""
    await bench.fleet.advance(30)
    await saturate(bench, "b")
    await bench.lose_buckets()
    # Nothing is stated while the store is away, for longer than statements are kept.
    bench.clock.advance_us(32 * SECOND_US)
    assert await saturate(bench, "c") == 6
    await bench.fleet.advance_until_compared()
    # Six were permitted, and three more in 32 s; the slots' ends leave one open.
    assert bench.fleet.overshoot("p") == 12 - 6 - 3 - 1


async def test_what_was_found_is_shown_for_minutes(bench: AuditBench) -> None:
    """It falls back by itself, also at a replica that does not audit any more."""
    await saturate(bench, "a")
    await bench.lose_buckets()
    await saturate(bench, "b")
    await bench.fleet.advance_until_compared()
    assert bench.fleet.last_audit("a", "p").overshoot == 5
    bench.fleet.join("0")
    await bench.fleet.advance(2)
    await saturate(bench, "a")
    await bench.fleet.advance_until_compared()
    assert bench.fleet.last_audit("0", "p").callers == 1
    assert [bench.fleet.last_audit(name, "p").overshoot for name in "0a"] == [0, 5]
    bench.clock.advance_us(RETENTION_US)
    await bench.fleet.audit_all()
    assert bench.fleet.overshoot("p") == 0


async def test_the_caller_with_the_most_is_shown(bench: AuditBench) -> None:
    """Not the sum over callers; one line names the worst."""
    for caller in ("ann", "bob"):
        await bench.fleet.spend("a", "p", caller, times=6)
    await bench.lose_buckets()
    await bench.fleet.spend("b", "p", "ann", times=2)
    await bench.fleet.spend("b", "p", "bob", times=4)
    await bench.fleet.advance_until_compared()
    assert bench.fleet.overshoot("p") == 3
    assert [event.units for event in bench.fleet.overshoots()] == [3]


async def test_only_the_smallest_of_all_are_audited() -> None:
    """The others are not counted as admitted either, once the bound is known."""
    bench = AuditBench(audit_callers=2)
    for _ in range(30):
        for number in range(9):
            await bench.fleet.spend("abc"[number % 3], "p", f"caller{number}")
        await bench.fleet.advance(5)
    await bench.fleet.advance_until_compared()
    assert bench.fleet.last_audit("a", "p").callers == 2
    admitted, permitted = (bench.fleet.total("p", figure) for figure in ("admitted", "permitted"))
    assert 0 < admitted <= permitted
    bounds = bench.fleet["b"].audit._bounds
    assert bounds is not None
    assert list(bounds) == ["p token_bucket 6 60000000 6"]


async def test_more_slots_than_are_kept(bench: AuditBench) -> None:
    """Where slots are missing the audit starts anew, and does not take them for empty."""
    await saturate(bench, "b")
    await bench.fleet.advance_until_compared()
    a = bench.fleet.members.pop("a")
    # The auditor alone hears nothing for a while, and comes back.
    for _ in range(12):
        await bench.fleet.advance(5)
        await saturate(bench, "b")
    bench.fleet.members["a"] = a
    await bench.fleet.advance_until_compared()
    assert (bench.fleet.overshoots(), bench.fleet.last_audit("a", "p").callers) == (
        [],
        1,
    )


async def test_a_ledger_that_was_left_alone_for_long(bench: AuditBench) -> None:
    """After more than an hour the audit starts anew."""
    await saturate(bench, "b")
    await bench.fleet.advance_until_compared()
    bench.clock.advance_us(721 * INTERVAL_US)
    await bench.fleet.advance_until_compared()
    assert (bench.fleet.overshoots(), bench.fleet.last_audit("a", "p").callers) == (
        [],
        0,
    )


async def test_what_is_not_let_in_by_the_store_is_not_audited() -> None:
    """Shadow policies, leases, local shares, and whatever is let in without the store."""
    shadow = rate_policy("s", "1/minute", mode=Mode.SHADOW)
    local = rate_policy("l", "1/minute")
    opened = rate_policy("o", "1/minute", on_store_error=OnStoreError.ALLOW)
    async with Bench(shadow, local, opened, concurrency_policy("c", 1), failures=9) as bench:
        await bench.limiter.check("s", principal="ann")
        await bench.limiter.reserve("c", principal="ann")
        bench.store.down = timeout_error()
        for policy in ("l", "o"):
            assert (await bench.limiter.check(policy, principal="ann")).allowed
        assert '"accounts":{}' in bench.limiter.audit.sample.snapshot()


async def test_each_limit_is_judged_by_itself() -> None:
    """A policy of two limits shows the worse one."""
    bench = AuditBench(rate_policy("p", "6/minute", quota_of(Algorithm.SLIDING_LOG, 6)))
    await saturate(bench, "a", "b")
    await bench.lose_buckets()
    await saturate(bench, "b", "c")
    await bench.fleet.advance_until_compared()
    (event,) = bench.fleet.overshoots()
    assert (event.limit, event.units) == ("sl60", 6)
    assert bench.fleet.overshoot("p") == 6


async def test_a_policy_that_is_gone_is_not_told_of(bench: AuditBench) -> None:
    """Once nobody was counted under it for a while."""
    await saturate(bench, "a")
    await bench.fleet.advance(20)
    for limiter in bench.fleet.members.values():
        limiter.active_policies.replace(PolicySet([rate_policy("q", "1/minute")]))
    await bench.fleet.advance(310)
    last = bench.fleet.recorders["a"].of(AuditReported)[-1]
    assert last == AuditReported((PolicyAudit("q", 0, 0, 0, 0, 0.0),))


async def test_a_statement_of_another_release(bench: AuditBench) -> None:
    """Is left out, and the rest is audited."""
    await saturate(bench, "a")
    for _ in range(8):
        await bench.store.exchange_reports("z", "nonsense", "nonsense", TTL_US)
        await bench.fleet.advance(2)
    assert bench.fleet.last_audit("a", "p").callers == 1


async def test_who_compares_again_begins_anew(bench: AuditBench) -> None:
    """What happened while another one compared is not known, and so is nothing of before."""
    await saturate(bench, "c")
    await bench.fleet.advance_until_compared()
    bench.fleet.join("0")
    await bench.fleet.advance_until_compared()
    assert [bench.fleet.last_audit(name, "p").callers for name in "0a"] == [0, 0]
    del bench.fleet.members["0"]
    await bench.fleet.advance_until_compared()
    # Nobody was let in since.
    assert bench.fleet.last_audit("a", "p").callers == 0


async def test_the_last_statement_tells_of_all() -> None:
    """A replica that ends in good order is missed nothing of, and another one audits at once."""
    bench = AuditBench()
    await bench.fleet.advance(20)
    await bench.fleet["a"].start()
    await saturate(bench, "a")
    first = bench.fleet.members.pop("a")
    first.store.aclose = bench.store.open  # type: ignore[method-assign]  # the others still use it
    await first.aclose()
    await bench.lose_buckets()
    await saturate(bench, "b")
    await bench.fleet.advance_until_compared()
    assert bench.fleet.last_audit("b", "p").callers == 1
    assert bench.fleet.overshoot("p") == 5


async def test_who_asks_under_several_keys() -> None:
    """The hash in what was found is the caller's, whatever parts the key has."""
    policy = rate_policy(
        "p", fixed_window(2), key=(KeyPart.parse("route"), KeyPart.parse("principal"))
    )
    bench = AuditBench(policy)
    subject = Subject(principal=Principal("ann"), route="POST /exports")
    for name in "ab":
        for _ in range(2):
            await bench.fleet[name].check("p", subject=subject)
        await bench.lose_buckets()
    await bench.fleet.advance_until_compared()
    (event,) = bench.fleet.overshoots()
    assert (event.units, len(event.caller)) == (2, 16 + 1 + 16)
