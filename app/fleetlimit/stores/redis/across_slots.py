"""Checks over several slots of a Redis Cluster.

A script sees one slot only. So a check over several slots first does a dry run in each slot, and
stops if one denies. Then it acquires in each slot. If one denies now, because of a concurrent
check, the units acquired in the other slots are refunded. No bucket ever admits too much, and a
denied check spends nothing in the end. Between the two steps other replicas may see too few units,
never too many.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from typing import Protocol

from fleetlimit.core.charge import Adjustment, Charge
from fleetlimit.core.decision import BucketStatus
from fleetlimit.errors import StoreError
from fleetlimit.limiter.ports import KeysFailed
from fleetlimit.limiter.store_replies import AcquireResult

SlotIndices = list[int]
"""Indices of the charges, adjustments or keys whose buckets share a slot."""


class SlotStore(Protocol):
    """Operations of a store within one slot."""

    def acquire_in_slot(
        self, charges: Sequence[Charge], *, dry_run: bool
    ) -> Awaitable[AcquireResult]:
        """Acquire charges of one slot."""
        ...

    async def adjust(self, adjustments: Sequence[Adjustment]) -> object:
        """Adjust charges that were spent."""
        ...


async def acquire_across_slots(
    store: SlotStore, charges: Sequence[Charge], slots: Sequence[SlotIndices], *, dry_run: bool
) -> AcquireResult:
    """Acquire charges of several slots together.

    Args:
        store: Store that acquires within a slot.
        charges: The charges.
        slots: Indices of the charges, by slot.
        dry_run: Whether to spend nothing.

    Raises:
        KeysFailed: Some slots did not reply; the units acquired in the other slots were refunded.
    """
    previews, failures = await _acquire_all(store, charges, slots, dry_run=True)
    if failures:
        raise KeysFailed(failures)
    preview = _merge(charges, slots, [each for each in previews if each is not None])
    denied = _denied_groups(charges, preview.statuses)
    if dry_run or 0 in denied:
        return preview
    # The dry run alone decides which shadow groups are spent, because they may span slots.
    kept = [[index for index in slot if charges[index].group not in denied] for slot in slots]
    kept = [slot for slot in kept if slot]
    if not kept:
        return replace(preview, spent=True)
    outcomes, failures = await _acquire_all(store, charges, kept, dry_run=False)
    results = [each for each in outcomes if each is not None]
    if not failures and all(each.spent for each in results):
        return _merge(charges, kept, results, base=preview)
    await _refund(store, charges, kept, outcomes)
    if failures:
        raise KeysFailed(failures)
    # For refunded buckets, the dry run has the current status.
    unspent = [index for index, each in enumerate(results) if not each.spent]
    return _merge(charges, [kept[i] for i in unspent], [results[i] for i in unspent], base=preview)


async def _acquire_all(
    store: SlotStore, charges: Sequence[Charge], slots: Sequence[SlotIndices], *, dry_run: bool
) -> tuple[list[AcquireResult | None], dict[str, StoreError]]:
    """Return the result of each slot, None if it failed, and the errors by key."""
    outcomes = await asyncio.gather(
        *(_acquire(store, charges, slot, dry_run=dry_run) for slot in slots),
        return_exceptions=True,
    )
    results: list[AcquireResult | None] = []
    errors: dict[str, StoreError] = {}
    for slot, outcome in zip(slots, outcomes, strict=True):
        if isinstance(outcome, StoreError):
            errors.update(dict.fromkeys((charges[index].key for index in slot), outcome))
        elif isinstance(outcome, BaseException):
            raise outcome
        results.append(outcome if isinstance(outcome, AcquireResult) else None)
    return results, errors


async def _acquire(
    store: SlotStore, charges: Sequence[Charge], slot: SlotIndices, *, dry_run: bool
) -> AcquireResult:
    return await store.acquire_in_slot([charges[index] for index in slot], dry_run=dry_run)


def _denied_groups(charges: Sequence[Charge], statuses: Sequence[BucketStatus]) -> set[int]:
    """Return the groups with a denied charge."""
    pairs = zip(charges, statuses, strict=True)
    return {charge.group for charge, status in pairs if not status.allowed}


async def _refund(
    store: SlotStore,
    charges: Sequence[Charge],
    slots: Sequence[SlotIndices],
    outcomes: Sequence[AcquireResult | None],
) -> None:
    adjustments = []
    for slot, outcome in zip(slots, outcomes, strict=True):
        if outcome is not None and outcome.spent:
            in_slot = [charges[index] for index in slot]
            denied = _denied_groups(in_slot, outcome.statuses)
            adjustments += [
                each.adjustment(-each.units, outcome.store_now_us)
                for each in in_slot
                if each.group not in denied
            ]
    # If the store fails here, the units return when their buckets refill.
    with contextlib.suppress(StoreError):
        await store.adjust(adjustments)


def _merge(
    charges: Sequence[Charge],
    slots: Sequence[SlotIndices],
    results: Sequence[AcquireResult],
    base: AcquireResult | None = None,
) -> AcquireResult:
    """Merge the results of several slots in the order of the charges; `base` has all others."""
    statuses = dict(enumerate(base.statuses)) if base else {}
    store_acquired_at_us = dict(enumerate(base.store_acquired_at_us_by_charge)) if base else {}
    for slot, result in zip(slots, results, strict=True):
        statuses.update(zip(slot, result.statuses, strict=True))
        store_acquired_at_us.update(dict.fromkeys(slot, result.store_now_us))
    return AcquireResult(
        max(result.store_now_us for result in results),
        tuple(statuses[index] for index in range(len(charges))),
        all(result.spent for result in results),
        tuple(store_acquired_at_us[index] for index in range(len(charges))),
    )
