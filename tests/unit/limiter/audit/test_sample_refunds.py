"""What a replica takes off what it counted, and where it begins to count anew."""

import json

from fleetlimit.core.charge import Charge
from fleetlimit.core.policy import Policy
from fleetlimit.core.quota import Algorithm, concurrency_quota
from fleetlimit.limiter.audit.ledger import SLOT_US, rank
from fleetlimit.limiter.audit.report import NO_WORD, PENDING
from fleetlimit.limiter.audit.sample import BREAK_US, MAX_BREAKS, Sample
from support.clock import EPOCH_US
from support.limiter import rate
from support.sample import accounts, names, plan, slots, taken
from support.stores import MINUTE_US, quota_of


def breaks(sample: Sample) -> dict[str, int]:
    found: dict[str, int] = json.loads(sample.state())["breaks"]
    return found


def corrected(charge: Charge, delta: int, at_us: int, *, keys: int = 8) -> Sample:
    sample = Sample(keys)
    sample.corrected([charge.correction(delta, EPOCH_US)], [at_us])
    return sample


def test_what_is_given_back_is_taken_off_when_it_was() -> None:
    """Also by a replica that let nothing in; of that slot it has no word of what was before."""
    at_us = EPOCH_US + 3 * SLOT_US + 1
    sample = corrected(plan().charges[0], -4, at_us)
    ((_, gives_back, _),) = accounts(sample).values()
    assert gives_back == 1
    assert slots(sample) == [[3 * SLOT_US, SLOT_US - 1, NO_WORD, -4]]
    sample.decided(plan(), taken(at_us + 5, 3))
    assert slots(sample) == [[3 * SLOT_US, 6, 6, -3]]


def test_what_makes_no_room_is_not_taken_off() -> None:
    """More than was reserved, a lease, and a refund into a window that has ended."""
    window = rate("w", quota_of(Algorithm.FIXED_WINDOW, 10))
    lease = plan(Policy("c", (concurrency_quota(3),)))
    for sample in (
        corrected(plan().charges[0], 5, EPOCH_US),
        corrected(lease.charges[0], -1, EPOCH_US),
        corrected(plan(window).charges[0], -5, EPOCH_US + MINUTE_US),
    ):
        assert json.loads(sample.state())["accounts"] == {}


def test_a_refund_of_somebody_who_is_not_audited() -> None:
    """It is not counted either."""
    first, second = sorted((plan(caller=n) for n in "ab"), key=lambda one: rank(*names([one])))
    sample = Sample(1)
    sample.decided(first, taken(EPOCH_US, 9))
    sample.corrected([second.charges[0].correction(-1, EPOCH_US)], [EPOCH_US])
    assert list(accounts(sample)) == names([first])


def test_a_break_lasts_until_the_statement_that_told_of_it() -> None:
    """Its time is the store's, and until that is known everything is within the break."""
    sample = Sample(8)
    sample.decided(plan(), taken(EPOCH_US, 9))
    bucket = plan().charges[0].key
    sample.interrupt([bucket, "fl1:{another}:p:tb60"])
    assert slots(sample) == []
    assert breaks(sample)[bucket] == PENDING
    sample.stated(EPOCH_US + 7)
    assert breaks(sample) == {bucket: EPOCH_US + 7, "fl1:{another}:p:tb60": EPOCH_US + 7}
    sample.stated(EPOCH_US + 7 + BREAK_US)
    assert len(breaks(sample)) == 2
    sample.stated(EPOCH_US + 8 + BREAK_US)
    assert breaks(sample) == {}


def test_a_break_while_a_statement_is_on_its_way() -> None:
    """That statement's time is not the end of a break that it said nothing of."""
    sample = Sample(8)
    sample.interrupt(["a"])
    sample.state()
    sample.interrupt(["a", "b"])
    sample.stated(EPOCH_US)
    assert breaks(sample) == {"a": PENDING, "b": PENDING}
    sample.stated(EPOCH_US + 1)
    assert breaks(sample) == {"a": EPOCH_US + 1, "b": EPOCH_US + 1}


def test_breaks_are_few() -> None:
    """The newest are kept."""
    sample = Sample(8)
    sample.interrupt(f"bucket{number}" for number in range(MAX_BREAKS + 1))
    assert len(breaks(sample)) == MAX_BREAKS
    assert "bucket0" not in breaks(sample)
    sample.state()
    sample.interrupt(f"other{number}" for number in range(MAX_BREAKS))
    sample.stated(EPOCH_US)
    assert set(breaks(sample).values()) == {PENDING}
