"""Usage sample: which callers and units are counted, and in which interval."""

import json

import pytest

from fleetlimit.core.charge import Charge
from fleetlimit.core.key_parts import KeyPart
from fleetlimit.core.keys import parse_bucket_key
from fleetlimit.core.policy import Mode, Policy
from fleetlimit.core.quota import (
    MAX_LIMIT,
    Algorithm,
    Quota,
    concurrency_quota,
    rate_quota,
)
from fleetlimit.core.subject import Principal, Subject
from fleetlimit.limiter.audit.bottom_k import MAX_INTERVALS
from fleetlimit.limiter.audit.ledger import INTERVAL_US, sample_rank
from fleetlimit.limiter.audit.sample import IDLE_CALLER_US, MAX_LIMITS, UsageSample
from fleetlimit.limiter.bucket_events import BucketEvents
from fleetlimit.limiter.failure_log import FailureLog
from fleetlimit.limiter.log_sampler import LINES_PER_WINDOW
from fleetlimit.limiter.plan import PolicyCost, make_plan
from fleetlimit.limiter.store_replies import AcquireResult
from support.clock import EPOCH_US, ManualClock
from support.limiter import rate_policy
from support.sample import KEY_SCHEME, accounts, acquire_result, caller_hashes, intervals, plan_for
from support.stores import MINUTE_US, allowed_status


def test_sample_counts_units_by_store_time() -> None:
    """Each interval has its sum, its first time, and the units spent before that."""
    sample = UsageSample(8, BucketEvents())
    for at_us, cost, remaining in (
        (EPOCH_US + 1, 2, 8),
        (EPOCH_US + 2, 1, 7),
        (EPOCH_US + INTERVAL_US, 4, 3),
    ):
        sample.record(plan_for(cost=cost).charges, acquire_result(at_us, remaining))
    assert intervals(sample) == [[0, 1, 0, 3], [INTERVAL_US, 0, 3, 4]]


def test_sample_accepts_replies_in_any_order() -> None:
    """The first use is the first one that the store decided."""
    sample = UsageSample(8, BucketEvents())
    for at_us, remaining in ((EPOCH_US + 5, 6), (EPOCH_US + 5, 7), (EPOCH_US + 5, 5)):
        sample.record(plan_for().charges, acquire_result(at_us, remaining))
    assert intervals(sample) == [[0, 5, 2, 3]]
    sample.record(plan_for().charges, acquire_result(EPOCH_US + 1, 9))
    assert intervals(sample) == [[0, 1, 0, 4]]


def test_sample_counts_units_of_an_implausible_status() -> None:
    """Units count whatever the status says."""
    sample = UsageSample(8, BucketEvents())
    sample.record(plan_for().charges, acquire_result(EPOCH_US, 99))
    assert intervals(sample) == [[0, 0, 0, 1]]


def test_sample_keeps_denied_callers() -> None:
    """A denial or a cost of 0 adds no units, and keeps the caller in the sample."""
    sample = UsageSample(8, BucketEvents())
    sample.record(plan_for().charges, acquire_result(EPOCH_US, 0, spent=False))
    sample.record(plan_for(cost=0).charges, acquire_result(EPOCH_US, 10))
    assert intervals(sample) == []
    sample.acknowledge(EPOCH_US + IDLE_CALLER_US)
    assert len(accounts(sample)) == 1


def test_sample_drops_idle_callers() -> None:
    """After five minutes without requests; a limit without callers is dropped, too."""
    sample = UsageSample(1, BucketEvents())
    sample.record(plan_for(caller="ann").charges, acquire_result(EPOCH_US, 9))
    sample.acknowledge(EPOCH_US + IDLE_CALLER_US + 1)
    assert json.loads(sample.snapshot())["accounts"] == {}
    sample.record(plan_for(caller="bob").charges, acquire_result(EPOCH_US + IDLE_CALLER_US + 1, 9))
    assert len(accounts(sample)) == 1


def test_sample_is_independent_of_the_order() -> None:
    """Replicas with the same callers in another order count the same ones."""
    plans = [plan_for(caller=f"caller{number}") for number in range(50)]
    smallest = sorted(caller_hashes(plans), key=sample_rank)[:8]
    for order in (plans, plans[::-1], plans[25:] + plans[:25]):
        sample = UsageSample(8, BucketEvents())
        for each in order:
            sample.record(each.charges, acquire_result(EPOCH_US, 9))
        assert sorted(accounts(sample), key=sample_rank) == smallest


def test_sample_adds_a_caller_after_one_left() -> None:
    """When one of the smallest leaves, the next new caller is counted."""
    plans = sorted(
        (plan_for(caller=f"{n}") for n in range(3)),
        key=lambda one: sample_rank(*caller_hashes([one])),
    )
    sample = UsageSample(2, BucketEvents())
    for each in plans:
        sample.record(each.charges, acquire_result(EPOCH_US, 9))
    sample.record(plans[1].charges, acquire_result(EPOCH_US + IDLE_CALLER_US, 9))
    sample.acknowledge(EPOCH_US + IDLE_CALLER_US + 1)
    sample.record(plans[2].charges, acquire_result(EPOCH_US + IDLE_CALLER_US, 9))
    assert list(accounts(sample)) == caller_hashes(plans[1:])


def test_sample_bounds_the_intervals() -> None:
    """The report contains the first complete interval."""
    sample = UsageSample(8, BucketEvents())
    for interval in range(MAX_INTERVALS + 2):
        sample.record(plan_for().charges, acquire_result(EPOCH_US + interval * INTERVAL_US, 9))
    ((first, _, found),) = accounts(sample).values()
    assert len(found) == MAX_INTERVALS
    assert first == EPOCH_US // INTERVAL_US + 2


def test_sample_ignores_leases_and_shadow_charges() -> None:
    """Leases are not spent, and shadow charges deny nothing."""
    sample = UsageSample(8, BucketEvents())
    held = Policy("c", (concurrency_quota(3),))
    shadow = rate_policy("s", "10/minute", mode=Mode.SHADOW)
    for policy in (held, shadow):
        sample.record(plan_for(policy).charges, acquire_result(EPOCH_US, 2))
    assert json.loads(sample.snapshot())["accounts"] == {}


def test_sample_of_size_zero_counts_nothing() -> None:
    """With 0 callers nothing is counted."""
    sample = UsageSample(0, BucketEvents())
    sample.record(plan_for().charges, acquire_result(EPOCH_US, 9))
    sample.record_refunds([plan_for().charges[0].adjustment(-1, EPOCH_US)], [EPOCH_US])
    sample.invalidate(["bucket"])
    assert json.loads(sample.snapshot()) == {"accounts": {}, "invalidations": {}}


def test_sample_counts_each_limit_separately() -> None:
    """Each limit has the time of its own server, for the same callers."""
    both = rate_policy("p", "10/minute", rate_quota("100/day", algorithm=Algorithm.FIXED_WINDOW))
    sample = UsageSample(8, BucketEvents())
    found = AcquireResult(
        EPOCH_US + 2,
        (allowed_status(9, 1, 1),) * 2,
        spent=True,
        store_acquired_at_us_by_charge=(EPOCH_US, EPOCH_US + 2),
    )
    sample.record(plan_for(both).charges, found)
    reported = json.loads(sample.snapshot())["accounts"]
    assert set(reported) == {
        "p token_bucket 10 60000000 10",
        "p fixed_window 100 86400000000 100",
    }
    by_day, by_minute = (reported[limit] for limit in sorted(reported))
    assert by_minute.keys() == by_day.keys() == {*caller_hashes([plan_for()])}
    interval = str(EPOCH_US // INTERVAL_US)
    assert [by_minute[caller][2][interval][0] for caller in by_minute] == [0]
    assert [by_day[caller][2][interval][0] for caller in by_day] == [2]


def test_sample_survives_a_reload_of_equal_limits() -> None:
    """A limit of the same figures is the same limit, whatever its cost factor."""
    sample = UsageSample(8, BucketEvents())
    for quota in (Quota(Algorithm.TOKEN_BUCKET, 10, MINUTE_US, 10, cost) for cost in (1, 1, 2)):
        sample.record(plan_for(rate_policy("p", quota)).charges, acquire_result(EPOCH_US, 8))
    assert intervals(sample) == [[0, 0, 0, 4]]


def test_sample_restarts_with_a_changed_limit() -> None:
    """A caller is counted under the limit of its last decision."""
    sample = UsageSample(8, BucketEvents())
    sample.record(plan_for().charges, acquire_result(EPOCH_US, 9))
    sample.record(plan_for(rate_policy("p", "20/minute")).charges, acquire_result(EPOCH_US, 18))
    reported = json.loads(sample.snapshot())["accounts"]
    assert [len(callers) for callers in reported.values()] == [0, 1]
    sample.acknowledge(EPOCH_US)
    assert list(json.loads(sample.snapshot())["accounts"]) == ["p token_bucket 20 60000000 20"]


def test_sample_treats_equal_quotas_as_one() -> None:
    """An app that builds a quota for each request does not fill the memory."""
    sample = UsageSample(8, BucketEvents())
    for _ in range(1_500):
        sample.record(plan_for(rate_policy("p", "10/minute")).charges, acquire_result(EPOCH_US, 9))
    assert len(sample._limits_by_quota) == 1
    assert intervals(sample) == [[0, 0, 0, 1_500]]


def test_sample_bounds_the_cached_quotas() -> None:
    """Limits that come and go do not fill the memory."""
    sample = UsageSample(8, BucketEvents())
    for number in range(1_500):
        sample.record(
            plan_for(rate_policy("p", f"{10 + number}/minute")).charges,
            acquire_result(EPOCH_US, 9),
        )
        assert len(sample._limits_by_quota) <= 1_000
    sample.acknowledge(EPOCH_US)
    assert len(sample._limits_by_quota) == 0


def test_sample_counts_a_caller_under_a_new_limit() -> None:
    """A caller outside one limit's sample may be in another's."""
    sample = UsageSample(1, BucketEvents())
    callers = [f"caller{number}" for number in range(8)]
    for _ in range(2):
        for caller in callers:
            sample.record(plan_for(caller=caller).charges, acquire_result(EPOCH_US, 9))
    first = min(callers, key=lambda each: sample_rank(caller_hashes([plan_for(caller=each)])[0]))
    other = next(each for each in callers if each != first)
    sample.record(
        plan_for(rate_policy("p", "20/minute"), caller=other).charges,
        acquire_result(EPOCH_US, 19),
    )
    accounts_of = json.loads(sample.snapshot())["accounts"]
    assert list(accounts_of["p token_bucket 20 60000000 20"]) == caller_hashes(
        [plan_for(caller=other)]
    )


def test_drain_admitted_returns_units_of_audited_callers() -> None:
    """Units are returned once, less refunds, and only of ranks up to the bound."""
    first, second = sorted(
        (plan_for(caller=n) for n in "ab"), key=lambda one: sample_rank(*caller_hashes([one]))
    )
    bounds = {"p token_bucket 10 60000000 10": sample_rank(*caller_hashes([first])).checksum}
    sample = UsageSample(8, BucketEvents())
    sample.record(first.charges, acquire_result(EPOCH_US, 9))
    sample.record(second.charges, acquire_result(EPOCH_US, 9))
    assert sample.drain_admitted(None) == {"p": 0}
    assert sample.drain_admitted(bounds) == {"p": 1}
    assert sample.drain_admitted({}) == {"p": 0}
    sample.record_refunds([first.charges[0].adjustment(-1, EPOCH_US)], [EPOCH_US])
    assert sample.drain_admitted({}) == {"p": 0}
    for _ in range(3):
        sample.record(first.charges, acquire_result(EPOCH_US, 6))
    assert sample.drain_admitted({}) == {"p": 2}


@pytest.mark.parametrize("parts", [["principal"], ["route", "principal"]], ids=len)
def test_sample_report_is_bounded(parts: list[str]) -> None:
    """A caller's account has at most 300 bytes."""
    huge = Quota(Algorithm.TOKEN_BUCKET, MAX_LIMIT, MINUTE_US, MAX_LIMIT)
    policy = rate_policy("p", huge, key=tuple(map(KeyPart.parse, parts)))
    sample = UsageSample(32, BucketEvents())
    for number in range(40):
        subject = Subject(principal=Principal(f"caller{number}"), route="POST /exports")
        for interval in range(9):
            at_us = EPOCH_US + interval * INTERVAL_US
            found = AcquireResult(at_us, (allowed_status(0, 1, 1),), spent=True)
            plan = make_plan([PolicyCost(policy, MAX_LIMIT)], subject, KEY_SCHEME)
            for _ in range(1_000):
                sample.record(plan.charges, found)
    assert len(accounts(sample)) == 32
    assert len(sample.snapshot()) <= 32 * 300 + 100


def test_sample_bounds_the_callers_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of cached callers outside the sample is bounded."""
    monkeypatch.setattr("fleetlimit.limiter.audit.sample._MAX_OUTSIDE", 4)
    sample = UsageSample(1, BucketEvents())
    for number in range(40):
        sample.record(plan_for(caller=f"caller{number}").charges, acquire_result(EPOCH_US, 9))
        assert len(sample._outside) <= 4
    sample.acknowledge(EPOCH_US + 2 * IDLE_CALLER_US)
    assert len(sample._outside) == 0


SHARED = Policy(
    "p",
    tiers={"free": "10/minute", "pro": "99/minute"},
    key=(KeyPart.parse("global"),),
)


def tier_charges(tier: str) -> tuple[Charge, ...]:
    """Return the charges of a caller of a tier, of the bucket that all tiers share."""
    subject = Subject(principal=Principal(tier, tier))
    return make_plan([PolicyCost(SHARED, 1)], subject, KEY_SCHEME).charges


def admitted_by_limit(sample: UsageSample) -> dict[str, int]:
    """Return the units of all intervals in the report, by limit."""
    return {
        limit: sum(figures[-1] for _, _, found in callers.values() for figures in found.values())
        for limit, callers in json.loads(sample.snapshot())["accounts"].items()
    }


def test_bucket_that_tiers_share_is_counted_by_limit() -> None:
    """The checks of one tier do not drop the counts of another."""
    sample, tiers = UsageSample(8, BucketEvents()), [tier_charges(each) for each in ("free", "pro")]
    assert tiers[0][0].key == tiers[1][0].key
    for number in range(1_000):
        sample.record(tiers[number % 2], acquire_result(EPOCH_US + number, 5))
    assert sorted(admitted_by_limit(sample).values()) == [500, 500]
    assert sample.drain_admitted({}) == {"p": 1_000}


def test_bucket_that_many_tiers_share_is_counted_by_limit() -> None:
    """Also if each tier is used once before any is used again."""
    policy = Policy(
        "p", tiers={f"t{n}": f"{9 + n}/minute" for n in range(5)}, key=(KeyPart.parse("global"),)
    )
    sample = UsageSample(8, BucketEvents())
    for number in range(50):
        subject = Subject(principal=Principal("ann", f"t{number % 5}"))
        charges = make_plan([PolicyCost(policy, 1)], subject, KEY_SCHEME).charges
        sample.record(charges, acquire_result(EPOCH_US + number, 5))
    assert sorted(admitted_by_limit(sample).values()) == [10] * 5


def test_reset_of_a_bucket_that_tiers_share_clears_all_limits() -> None:
    """After a reset, the counts of no tier are compared with what the bucket admits."""
    events = BucketEvents()
    sample, tiers = UsageSample(8, events), [tier_charges(each) for each in ("free", "pro")]
    for charges in (*tiers, *tiers):
        sample.record(charges, acquire_result(EPOCH_US, 5))
    events.emit_reset([tiers[0][0].key])
    assert list(admitted_by_limit(sample).values()) == [0, 0]


def test_reset_clears_an_earlier_limit_of_the_bucket() -> None:
    """Its counts from before the reset do not come back with the limit."""
    events = BucketEvents()
    sample, (free, pro) = UsageSample(8, events), [tier_charges(each) for each in ("free", "pro")]
    sample.record(free, acquire_result(EPOCH_US, 5))
    sample.record(pro, acquire_result(EPOCH_US, 5))
    events.emit_reset([free[0].key])
    sample.record(free, acquire_result(EPOCH_US, 5))
    assert sorted(admitted_by_limit(sample).values()) == [0, 1]


def test_idle_limits_of_a_shared_bucket_are_dropped_each() -> None:
    """A tier without requests is dropped, and the other one is still counted."""
    sample, (free, pro) = (
        UsageSample(8, BucketEvents()),
        [tier_charges(each) for each in ("free", "pro")],
    )
    later_us = EPOCH_US + IDLE_CALLER_US + 1
    for charges in (free, pro, free, pro):
        sample.record(charges, acquire_result(EPOCH_US, 5))
    sample.record(pro, acquire_result(later_us, 5))
    sample.acknowledge(later_us)
    sample.record(pro, acquire_result(later_us, 5))
    assert list(admitted_by_limit(sample).values()) == [4]
    sample.acknowledge(later_us + IDLE_CALLER_US + 1)
    assert admitted_by_limit(sample) == {}


def test_caller_that_one_limit_removes_is_still_counted_for_another() -> None:
    """Of one limit, a caller with a lower rank replaces it."""
    policy = Policy("p", tiers={"free": "10/minute", "pro": "99/minute"})

    def charges(name: str, tier: str) -> tuple[Charge, ...]:
        subject = Subject(principal=Principal(name, tier))
        return make_plan([PolicyCost(policy, 1)], subject, KEY_SCHEME).charges

    names = sorted(
        map(str, range(20)),
        key=lambda name: sample_rank(parse_bucket_key(charges(name, "free")[0].key).caller),
    )
    low, high = names[0], names[-1]
    sample = UsageSample(1, BucketEvents())
    for tier in ("free", "pro", "free", "pro"):
        sample.record(charges(high, tier), acquire_result(EPOCH_US, 5))
    sample.record(charges(low, "pro"), acquire_result(EPOCH_US, 5))
    for tier in ("pro", "free"):
        sample.record(charges(high, tier), acquire_result(EPOCH_US, 5))
    assert sorted(admitted_by_limit(sample).values()) == [1, 3]


def test_earlier_limits_of_a_bucket_are_bounded() -> None:
    """Limits that come and go are forgotten, the oldest one first."""
    sample = UsageSample(8, BucketEvents())
    for number in (*range(20), 0):
        plan = plan_for(rate_policy("p", f"{10 + number}/minute"))
        sample.record(plan.charges, acquire_result(EPOCH_US, 5))
    assert sum(admitted_by_limit(sample).values()) == 1


def test_audited_limits_are_bounded() -> None:
    """Code may make a policy for each caller, whose limits would fill the memory and the report."""
    sample = UsageSample(8, BucketEvents())
    for number in range(MAX_LIMITS + 3):
        plan = plan_for(rate_policy(f"p{number}", "10/minute"))
        for _ in range(2):
            sample.record(plan.charges, acquire_result(EPOCH_US, 9))
    reported = json.loads(sample.snapshot())["accounts"]
    assert len(reported) == MAX_LIMITS
    sample.acknowledge(EPOCH_US + IDLE_CALLER_US + 1)
    sample.record(plan.charges, acquire_result(EPOCH_US, 9))
    assert len(json.loads(sample.snapshot())["accounts"]) == 1


def test_failure_of_the_sample_is_logged_with_sampling(caplog: pytest.LogCaptureFixture) -> None:
    """A fault in the audit's code fails neither a decision nor a refund nor a reset."""
    clock = ManualClock()
    events, log = BucketEvents(), FailureLog(clock)
    sample = UsageSample(8, events, log)
    charges = plan_for().charges
    for _ in range(LINES_PER_WINDOW + 2):
        sample.record(charges, AcquireResult(EPOCH_US, (), spent=True))
    sample.record_refunds([charges[0].adjustment(-1, EPOCH_US)], [])
    events.emit_refund_lost(None)  # type: ignore[arg-type]  # a fault
    log.close()
    lines = [each for each in caplog.messages if each == "audit.failed"]
    assert len(lines) == LINES_PER_WINDOW + 2
    assert caplog.messages[-1] == "audit.failed.suppressed error=IndexError suppressed=2"


def test_sample_counts_no_units_of_a_window_of_an_earlier_calendar() -> None:
    """After a reload, a window that has begun keeps its end, and is none of the new calendar."""
    quota = rate_quota("10/month")
    policy = rate_policy("p", quota)
    assert quota.calendar is not None
    left_us = quota.calendar.window_at(EPOCH_US)[1] - EPOCH_US
    sample = UsageSample(8, BucketEvents())
    for window_left_us in (left_us - 1, left_us + 1, left_us):
        status = allowed_status(9, window_left_us, window_left_us)
        found = AcquireResult(EPOCH_US, (status,), spent=True)
        sample.record(plan_for(policy).charges, found)
    assert intervals(sample) == [[0, 0, 0, 1]]
