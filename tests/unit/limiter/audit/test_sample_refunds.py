"""Usage sample: refunds and invalidations."""

import json

from fleetlimit.core.charge import Charge
from fleetlimit.core.policy import Policy
from fleetlimit.core.quota import Algorithm, concurrency_quota
from fleetlimit.limiter.audit.ledger import INTERVAL_US, sample_rank
from fleetlimit.limiter.audit.report import PENDING, UNKNOWN
from fleetlimit.limiter.audit.sample import INVALIDATION_TTL_US, MAX_INVALIDATIONS, UsageSample
from fleetlimit.limiter.bucket_events import BucketEvents
from support.clock import EPOCH_US
from support.limiter import rate_policy
from support.sample import accounts, acquire_result, caller_hashes, intervals, plan_for
from support.stores import MINUTE_US, quota_of


def invalidations(sample: UsageSample) -> dict[str, int]:
    found: dict[str, int] = json.loads(sample.snapshot())["invalidations"]
    return found


def sample_with_refund(charge: Charge, delta: int, at_us: int, *, keys: int = 8) -> UsageSample:
    sample = UsageSample(keys, BucketEvents())
    sample.record_refunds([charge.adjustment(delta, EPOCH_US)], [at_us])
    return sample


def test_sample_subtracts_a_refund_in_its_interval() -> None:
    """Also at a replica that admitted nothing; the units spent before are unknown."""
    at_us = EPOCH_US + 3 * INTERVAL_US + 1
    sample = sample_with_refund(plan_for().charges[0], -4, at_us)
    ((_, gives_back, _),) = accounts(sample).values()
    assert gives_back == 1
    assert intervals(sample) == [[3 * INTERVAL_US, INTERVAL_US - 1, UNKNOWN, -4]]
    sample.record(plan_for().charges, acquire_result(at_us + 5, 3))
    assert intervals(sample) == [[3 * INTERVAL_US, 6, 6, -3]]


def test_sample_ignores_refunds_that_free_no_units() -> None:
    """A cost above the reservation, a lease, and a refund into a window that has ended."""
    window = rate_policy("w", quota_of(Algorithm.FIXED_WINDOW, 10))
    lease = plan_for(Policy("c", (concurrency_quota(3),)))
    for sample in (
        sample_with_refund(plan_for().charges[0], 5, EPOCH_US),
        sample_with_refund(lease.charges[0], -1, EPOCH_US),
        sample_with_refund(plan_for(window).charges[0], -5, EPOCH_US + MINUTE_US),
    ):
        assert json.loads(sample.snapshot())["accounts"] == {}


def test_sample_ignores_refunds_of_callers_outside() -> None:
    """It is not counted either."""
    first, second = sorted(
        (plan_for(caller=n) for n in "ab"), key=lambda one: sample_rank(*caller_hashes([one]))
    )
    sample = UsageSample(1, BucketEvents())
    sample.record(first.charges, acquire_result(EPOCH_US, 9))
    sample.record_refunds([second.charges[0].adjustment(-1, EPOCH_US)], [EPOCH_US])
    assert list(accounts(sample)) == caller_hashes([first])


def test_invalidation_ends_with_its_first_report() -> None:
    """Its end is that report's store time, and pending until then."""
    sample = UsageSample(8, BucketEvents())
    sample.record(plan_for().charges, acquire_result(EPOCH_US, 9))
    bucket = plan_for().charges[0].key
    sample.invalidate([bucket, "fl2:{another}:p:tb60"])
    assert intervals(sample) == []
    assert invalidations(sample)[bucket] == PENDING
    sample.acknowledge(EPOCH_US + 7)
    assert invalidations(sample) == {bucket: EPOCH_US + 7, "fl2:{another}:p:tb60": EPOCH_US + 7}
    sample.acknowledge(EPOCH_US + 7 + INVALIDATION_TTL_US)
    assert len(invalidations(sample)) == 2
    sample.acknowledge(EPOCH_US + 8 + INVALIDATION_TTL_US)
    assert invalidations(sample) == {}


def test_invalidation_during_a_report_stays_pending() -> None:
    """A report in flight does not contain it, and does not end it."""
    sample = UsageSample(8, BucketEvents())
    sample.invalidate(["a"])
    sample.snapshot()
    sample.invalidate(["a", "b"])
    sample.acknowledge(EPOCH_US)
    assert invalidations(sample) == {"a": PENDING, "b": PENDING}
    sample.acknowledge(EPOCH_US + 1)
    assert invalidations(sample) == {"a": EPOCH_US + 1, "b": EPOCH_US + 1}


def test_sample_bounds_the_invalidations() -> None:
    """The newest ones are kept."""
    sample = UsageSample(8, BucketEvents())
    sample.invalidate(f"bucket{number}" for number in range(MAX_INVALIDATIONS + 1))
    assert len(invalidations(sample)) == MAX_INVALIDATIONS
    assert "bucket0" not in invalidations(sample)
    sample.snapshot()
    sample.invalidate(f"other{number}" for number in range(MAX_INVALIDATIONS))
    sample.acknowledge(EPOCH_US)
    assert set(invalidations(sample).values()) == {PENDING}
