"""What a replica counts: who is in the sample, which units, in which slot."""

import json

import pytest

from fleetlimit.core.policy import KeyPart, Mode, Policy
from fleetlimit.core.quota import Algorithm, Quota, concurrency_quota, rate_quota
from fleetlimit.core.subject import Principal, Subject
from fleetlimit.limiter.audit.ledger import SLOT_US, rank
from fleetlimit.limiter.audit.sample import IDLE_US, KEPT_SLOTS, Sample
from fleetlimit.limiter.plan import make_plan
from fleetlimit.limiter.ports import Taken
from support.clock import EPOCH_US
from support.limiter import rate
from support.sample import KEYS, accounts, names, plan, slots, taken
from support.stores import MINUTE_US, admits


def test_units_are_counted_by_the_stores_time() -> None:
    """Each slot has its sum, its first time, and what the store said was spent before that."""
    sample = Sample(8)
    for at_us, cost, remaining in (
        (EPOCH_US + 1, 2, 8),
        (EPOCH_US + 2, 1, 7),
        (EPOCH_US + SLOT_US, 4, 3),
    ):
        sample.decided(plan(cost=cost), taken(at_us, remaining))
    assert slots(sample) == [[0, 1, 0, 3], [SLOT_US, 0, 3, 4]]


def test_answers_in_another_order() -> None:
    """The first of a slot is the first that the store decided, and of equal times the first."""
    sample = Sample(8)
    for at_us, remaining in ((EPOCH_US + 5, 6), (EPOCH_US + 5, 7), (EPOCH_US + 5, 5)):
        sample.decided(plan(), taken(at_us, remaining))
    assert slots(sample) == [[0, 5, 2, 3]]
    sample.decided(plan(), taken(EPOCH_US + 1, 9))
    assert slots(sample) == [[0, 1, 0, 4]]


def test_a_store_that_says_nonsense_is_counted_all_the_same() -> None:
    """Units count whatever the verdict's figures are."""
    sample = Sample(8)
    sample.decided(plan(), taken(EPOCH_US, 99))
    assert slots(sample) == [[0, 0, 0, 1]]


def test_refusals_and_costs_of_0_are_seen_and_count_nothing() -> None:
    """A caller that is refused stays in the sample."""
    sample = Sample(8)
    sample.decided(plan(), taken(EPOCH_US, 0, spent=False))
    sample.decided(plan(cost=0), taken(EPOCH_US, 10))
    assert slots(sample) == []
    sample.stated(EPOCH_US + IDLE_US)
    assert len(accounts(sample)) == 1


def test_idle_callers_leave() -> None:
    """Whoever was not seen for five minutes makes room, and a limit without callers is gone."""
    sample = Sample(1)
    sample.decided(plan(caller="ann"), taken(EPOCH_US, 9))
    sample.stated(EPOCH_US + IDLE_US + 1)
    assert json.loads(sample.state())["accounts"] == {}
    sample.decided(plan(caller="bob"), taken(EPOCH_US + IDLE_US + 1, 9))
    assert len(accounts(sample)) == 1


def test_the_sample_is_the_smallest_in_any_order() -> None:
    """Replicas that see the same callers in another order count the same ones."""
    plans = [plan(caller=f"caller{number}") for number in range(50)]
    smallest = sorted(names(plans), key=rank)[:8]
    for order in (plans, plans[::-1], plans[25:] + plans[:25]):
        sample = Sample(8)
        for each in order:
            sample.decided(each, taken(EPOCH_US, 9))
        assert sorted(accounts(sample), key=rank) == smallest


def test_a_place_that_became_free_is_taken() -> None:
    """When one of the smallest leaves, the next one that comes is counted."""
    plans = sorted((plan(caller=f"{n}") for n in range(3)), key=lambda one: rank(*names([one])))
    sample = Sample(2)
    for each in plans:
        sample.decided(each, taken(EPOCH_US, 9))
    sample.decided(plans[1], taken(EPOCH_US + IDLE_US, 9))
    sample.stated(EPOCH_US + IDLE_US + 1)
    sample.decided(plans[2], taken(EPOCH_US + IDLE_US, 9))
    assert list(accounts(sample)) == names(plans[1:])


def test_only_so_many_slots_are_kept() -> None:
    """What was dropped is said, so that nobody takes it for nothing."""
    sample = Sample(8)
    for slot in range(KEPT_SLOTS + 2):
        sample.decided(plan(), taken(EPOCH_US + slot * SLOT_US, 9))
    ((first, _, found),) = accounts(sample).values()
    assert len(found) == KEPT_SLOTS
    assert first == EPOCH_US // SLOT_US + 2


def test_what_is_not_audited() -> None:
    """Leases are held and not spent, and what a shadow policy counts it would not have refused."""
    sample = Sample(8)
    held = Policy("c", (concurrency_quota(3),))
    shadow = rate("s", "10/minute", mode=Mode.SHADOW)
    for policy in (held, shadow):
        sample.decided(plan(policy), taken(EPOCH_US, 2))
    assert json.loads(sample.state())["accounts"] == {}


def test_no_audit_counts_nothing() -> None:
    """With 0 keys nothing is looked at."""
    sample = Sample(0)
    sample.decided(plan(), taken(EPOCH_US, 9))
    sample.corrected([plan().charges[0].correction(-1, EPOCH_US)], [EPOCH_US])
    sample.interrupt(["bucket"])
    assert json.loads(sample.state()) == {"accounts": {}, "breaks": {}}


def test_each_limit_has_a_sample_of_the_same_callers() -> None:
    """Two limits of a policy are counted apart, each at its own server's time."""
    both = rate("p", "10/minute", rate_quota("100/day", algorithm=Algorithm.FIXED_WINDOW))
    sample = Sample(8)
    found = Taken(
        EPOCH_US + 2, (admits(9, 1, 1),) * 2, spent=True, times_us=(EPOCH_US, EPOCH_US + 2)
    )
    sample.decided(plan(both), found)
    stated = json.loads(sample.state())["accounts"]
    assert set(stated) == {
        "p token_bucket 10 60000000 10",
        "p fixed_window 100 86400000000 100",
    }
    by_day, by_minute = (stated[limit] for limit in sorted(stated))
    assert by_minute.keys() == by_day.keys() == {*names([plan()])}
    slot = str(EPOCH_US // SLOT_US)
    assert [by_minute[caller][2][slot][0] for caller in by_minute] == [0]
    assert [by_day[caller][2][slot][0] for caller in by_day] == [2]


def test_a_reload_that_changes_nothing_changes_nothing() -> None:
    """A limit of the same figures is the same limit, whatever a request costs under it."""
    sample = Sample(8)
    for quota in (Quota(Algorithm.TOKEN_BUCKET, 10, MINUTE_US, 10, cost) for cost in (1, 1, 2)):
        sample.decided(plan(rate("p", quota)), taken(EPOCH_US, 8))
    assert slots(sample) == [[0, 0, 0, 4]]


def test_a_changed_limit_is_counted_anew() -> None:
    """A caller is counted under the limit that it was decided by last."""
    sample = Sample(8)
    sample.decided(plan(), taken(EPOCH_US, 9))
    sample.decided(plan(rate("p", "20/minute")), taken(EPOCH_US, 18))
    stated = json.loads(sample.state())["accounts"]
    assert [len(callers) for callers in stated.values()] == [0, 1]
    sample.stated(EPOCH_US)
    assert list(json.loads(sample.state())["accounts"]) == ["p token_bucket 20 60000000 20"]


def test_quotas_made_anew_are_one() -> None:
    """An app that builds a quota for each request does not fill the memory."""
    sample = Sample(8)
    for _ in range(1_500):
        sample.decided(plan(rate("p", "10/minute")), taken(EPOCH_US, 9))
    assert len(sample._seen) == 1
    assert slots(sample) == [[0, 0, 0, 1_500]]


def test_many_quotas_are_not_kept() -> None:
    """Limits that come and go without end are known for as long as they are asked."""
    sample = Sample(8)
    for number in range(1_500):
        sample.decided(plan(rate("p", f"{10 + number}/minute")), taken(EPOCH_US, 9))
    assert len(sample._seen) > 1_000
    sample.stated(EPOCH_US)
    assert sample._seen == {}


def test_who_is_beyond_the_sample_is_counted_under_a_new_limit() -> None:
    """Whom one limit's sample has no room for may be among the first of another's."""
    sample = Sample(1)
    callers = [f"caller{number}" for number in range(8)]
    for _ in range(2):
        for caller in callers:
            sample.decided(plan(caller=caller), taken(EPOCH_US, 9))
    first = min(callers, key=lambda each: rank(names([plan(caller=each)])[0]))
    other = next(each for each in callers if each != first)
    sample.decided(plan(rate("p", "20/minute"), caller=other), taken(EPOCH_US, 19))
    accounts_of = json.loads(sample.state())["accounts"]
    assert list(accounts_of["p token_bucket 20 60000000 20"]) == names([plan(caller=other)])


def test_admitted_units_are_those_of_audited_callers() -> None:
    """They are told once, less what was given back, and only of hashes up to the bound."""
    first, second = sorted((plan(caller=n) for n in "ab"), key=lambda one: rank(*names([one])))
    bounds = {"p token_bucket 10 60000000 10": rank(*names([first]))[0]}
    sample = Sample(8)
    sample.decided(first, taken(EPOCH_US, 9))
    sample.decided(second, taken(EPOCH_US, 9))
    assert sample.admitted(None) == {"p": 0}
    assert sample.admitted(bounds) == {"p": 1}
    assert sample.admitted({}) == {"p": 0}
    sample.corrected([first.charges[0].correction(-1, EPOCH_US)], [EPOCH_US])
    assert sample.admitted({}) == {"p": 0}
    for _ in range(3):
        sample.decided(first, taken(EPOCH_US, 6))
    assert sample.admitted({}) == {"p": 2}


@pytest.mark.parametrize("parts", [["principal"], ["route", "principal"]], ids=len)
def test_a_statement_is_bounded(parts: list[str]) -> None:
    """Whatever callers do, a caller's account takes at most 300 bytes."""
    huge = Quota(Algorithm.TOKEN_BUCKET, 2**26, MINUTE_US, 2**26)
    policy = rate("p", huge, key=tuple(map(KeyPart.parse, parts)))
    sample = Sample(32)
    for number in range(40):
        subject = Subject(principal=Principal(f"caller{number}"), route="POST /exports")
        for slot in range(9):
            at_us = EPOCH_US + slot * SLOT_US
            found = Taken(at_us, (admits(0, 1, 1),), spent=True)
            asked = make_plan([(policy, 2**26)], subject, KEYS)
            for _ in range(1_000):
                sample.decided(asked, found)
    assert len(accounts(sample)) == 32
    assert len(sample.state()) <= 32 * 300 + 100


def test_who_is_beyond_the_sample_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those who are not counted only so many are known as such."""
    monkeypatch.setattr("fleetlimit.limiter.audit.sample._MAX_BEYOND", 4)
    sample = Sample(1)
    for number in range(40):
        sample.decided(plan(caller=f"caller{number}"), taken(EPOCH_US, 9))
        assert len(sample._beyond) <= 4
    sample.stated(EPOCH_US + 2 * IDLE_US)
    assert not sample._beyond
