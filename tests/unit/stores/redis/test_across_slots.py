"""Checks over several Cluster slots: no slot admits too much, and a denied check spends nothing."""

from collections.abc import Awaitable, Callable, Sequence

import pytest

from fleetlimit.core.charge import Adjustment, Charge
from fleetlimit.core.quota import Algorithm
from fleetlimit.errors import StoreError, StoreUnavailable
from fleetlimit.limiter.store_replies import AcquireResult
from fleetlimit.stores.memory import MemoryStore
from fleetlimit.stores.redis.across_slots import acquire_across_slots
from support.clock import ManualClock
from support.stores import allowed, charge, quota_of

QUOTA = quota_of(Algorithm.FIXED_WINDOW, 3)
Interruption = Callable[[str], Awaitable[None]]


async def nothing(_key: str) -> None:
    """Do nothing."""


class Slots:
    """Three slots with one charge each, over a memory store; other checks may run in between."""

    def __init__(
        self, *, before_spending: Interruption = nothing, before_settling: Interruption = nothing
    ) -> None:
        self.buckets = MemoryStore(ManualClock().monotonic_us)
        self.calls: list[tuple[str, str]] = []
        self._before_spending = before_spending
        self._before_settling = before_settling

    async def acquire_in_slot(self, charges: Sequence[Charge], *, dry_run: bool) -> AcquireResult:
        """Decide the charges of one slot."""
        key = charges[0].key
        self.calls.append(("look" if dry_run else "spend", key))
        if not dry_run:
            await self._before_spending(key)
        return await self.buckets.acquire(charges, dry_run=dry_run)

    async def adjust(self, adjustments: Sequence[Adjustment]) -> None:
        """Give back."""
        self.calls += [("settle", each.key) for each in adjustments]
        await self._before_settling("")
        await self.buckets.adjust(adjustments)

    async def remaining(self, *keys: str) -> list[int]:
        """Return what each bucket has left."""
        looked = await self.buckets.acquire(
            [charge(QUOTA, 0, key=key) for key in keys], dry_run=True
        )
        return [status.remaining for status in looked.statuses]


def three(*groups: int) -> list[Charge]:
    """Return charges in three slots."""
    return [charge(QUOTA, key=key, group=group) for key, group in zip("abc", groups, strict=True)]


PARTS = [[0], [1], [2]]


async def test_every_slot_has_a_dry_run_before_any_acquires() -> None:
    """All slots run a dry run first, and then all acquire."""
    slots = Slots()
    result = await acquire_across_slots(slots, three(0, 0, 0), PARTS, dry_run=False)
    assert result.spent
    assert slots.calls == [(step, key) for step in ("look", "spend") for key in "abc"]
    assert [status.remaining for status in result.statuses] == [2, 2, 2]


async def test_denied_dry_run_acquires_nowhere() -> None:
    """If one slot denies the dry run, no slot acquires."""
    slots = Slots()
    await slots.buckets.acquire([charge(QUOTA, 3, key="b")])
    result = await acquire_across_slots(slots, three(0, 0, 0), PARTS, dry_run=False)
    assert (result.spent, allowed(result)) == (False, [True, False, True])
    assert {step for step, _ in slots.calls} == {"look"}


async def test_dry_run_alone_acquires_nothing() -> None:
    """With `dry_run=True` only the dry runs take place."""
    slots = Slots()
    result = await acquire_across_slots(slots, three(0, 0, 0), PARTS, dry_run=True)
    assert (result.spent, allowed(result)) == (False, [True] * 3)
    assert {step for step, _ in slots.calls} == {"look"}


async def test_statuses_keep_the_order_of_the_charges() -> None:
    """Interleaved charges of several slots get their statuses in order."""
    slots = Slots()
    await slots.buckets.acquire([charge(QUOTA, 1, key="a"), charge(QUOTA, 2, key="c")])
    result = await acquire_across_slots(slots, three(0, 0, 0), [[2, 0], [1]], dry_run=False)
    assert [status.remaining for status in result.statuses] == [1, 2, 0]


async def test_concurrent_check_causes_a_refund() -> None:
    """If a concurrent check takes a slot's last units, other slots are refunded."""

    async def others_come_first(key: str) -> None:
        if key == "b":
            await slots.buckets.acquire([charge(QUOTA, 3, key="b")])

    slots = Slots(before_spending=others_come_first)
    result = await acquire_across_slots(slots, three(0, 0, 0), PARTS, dry_run=False)
    assert (result.spent, allowed(result)) == (False, [True, False, True])
    assert result.statuses[1].retry_after_us > 0
    # The statuses are those after the refunds.
    assert [status.remaining for status in result.statuses] == [3, 0, 3]
    assert await slots.remaining("a", "b", "c") == [3, 0, 3]
    assert [key for step, key in slots.calls if step == "settle"] == ["a", "c"]


async def test_denied_check_refunds_shadow_groups() -> None:
    """Units of a shadow group are also refunded if the check is denied after all."""

    async def others_come_first(key: str) -> None:
        if key == "a":
            await slots.buckets.acquire([charge(QUOTA, 3, key="a")])

    slots = Slots(before_spending=others_come_first)
    result = await acquire_across_slots(slots, three(0, 1, 2), PARTS, dry_run=False)
    assert not result.spent
    assert await slots.remaining("a", "b", "c") == [0, 3, 3]


async def test_shadow_group_lost_in_a_race_does_not_deny() -> None:
    """A shadow group that no longer fits is not spent, and does not deny the check."""

    async def others_come_first(key: str) -> None:
        if key == "b":
            await slots.buckets.acquire([charge(QUOTA, 3, key="b")])

    slots = Slots(before_spending=others_come_first)
    result = await acquire_across_slots(slots, three(0, 1, 2), PARTS, dry_run=False)
    assert (result.spent, allowed(result)) == (True, [True, False, True])
    assert await slots.remaining("a", "b", "c") == [2, 0, 2]


async def test_unspent_shadow_group_is_not_refunded() -> None:
    """Units that a shadow group did not spend are not refunded."""

    async def others_come_first(key: str) -> None:
        await slots.buckets.acquire([charge(QUOTA, 3, key=key)])

    slots = Slots(before_spending=others_come_first)
    charges = three(0, 1, 1)
    result = await acquire_across_slots(slots, charges, [[0], [1, 2]], dry_run=False)
    assert not result.spent
    assert [key for step, key in slots.calls if step == "settle"] == []
    assert await slots.remaining("a", "b", "c") == [0, 0, 3]


async def test_shadow_group_denied_in_the_dry_run_is_not_acquired() -> None:
    """Only groups that fit in the dry run are acquired; with none of them the check is admitted."""
    slots = Slots()
    await slots.buckets.acquire([charge(QUOTA, 3, key=key) for key in "abc"])
    result = await acquire_across_slots(slots, three(1, 2, 3), PARTS, dry_run=False)
    assert (result.spent, allowed(result)) == (True, [False] * 3)
    assert {step for step, _ in slots.calls} == {"look"}


async def test_failed_slot_refunds_the_others() -> None:
    """If a slot fails, its error is raised and nothing stays spent."""

    async def away(key: str) -> None:
        if key == "c":
            raise StoreUnavailable("gone", kind="connection")

    slots = Slots(before_spending=away)
    with pytest.raises(StoreUnavailable, match="gone"):
        await acquire_across_slots(slots, three(0, 0, 0), PARTS, dry_run=False)
    assert await slots.remaining("a", "b", "c") == [3, 3, 3]


async def test_failed_refund_does_not_hide_the_first_error() -> None:
    """If the refund fails too, the first error is raised; the units return with time."""

    async def away(key: str) -> None:
        if key != "a":
            raise StoreUnavailable(f"no {key or 'way back'}", kind="connection")

    slots = Slots(before_spending=away, before_settling=away)
    with pytest.raises(StoreError, match="no b"):
        await acquire_across_slots(slots, three(0, 0, 0), PARTS, dry_run=False)
    assert await slots.remaining("a", "b", "c") == [2, 3, 3]
