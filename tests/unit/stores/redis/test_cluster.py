"""One check over several slots: no slot admits too much, and a refusal spends nothing."""

from collections.abc import Awaitable, Callable, Sequence

import pytest

from fleetlimit.core.charge import Adjustment, Charge
from fleetlimit.core.quota import Algorithm
from fleetlimit.errors import StoreError, StoreUnavailable
from fleetlimit.limiter.ports import AcquireResult
from fleetlimit.stores.memory import MemoryStore
from fleetlimit.stores.redis.cluster import acquire_across_slots
from support.clock import ManualClock
from support.stores import allowed, charge, quota_of

QUOTA = quota_of(Algorithm.FIXED_WINDOW, 3)
Interruption = Callable[[str], Awaitable[None]]


async def nothing(_key: str) -> None:
    """Let a call through."""


class Slots:
    """Three slots of one charge each, over a store in memory; others may come in between."""

    def __init__(
        self, *, before_spending: Interruption = nothing, before_settling: Interruption = nothing
    ) -> None:
        self.buckets = MemoryStore(ManualClock())
        self.calls: list[tuple[str, str]] = []
        self._before_spending = before_spending
        self._before_settling = before_settling

    async def acquire_in_slot(self, charges: Sequence[Charge], *, commit: bool) -> AcquireResult:
        """Decide the charges of one slot."""
        key = charges[0].key
        self.calls.append(("spend" if commit else "look", key))
        if commit:
            await self._before_spending(key)
        return await self.buckets.acquire(charges, commit=commit)

    async def adjust(self, adjustments: Sequence[Adjustment]) -> None:
        """Give back."""
        self.calls += [("settle", each.key) for each in adjustments]
        await self._before_settling("")
        await self.buckets.adjust(adjustments)

    async def remaining(self, *keys: str) -> list[int]:
        """Return what each bucket has left."""
        looked = await self.buckets.acquire(
            [charge(QUOTA, 0, key=key) for key in keys], commit=False
        )
        return [verdict.remaining for verdict in looked.statuses]


def three(*groups: int) -> list[Charge]:
    """Return charges of three slots."""
    return [charge(QUOTA, key=key, group=group) for key, group in zip("abc", groups, strict=True)]


PARTS = [[0], [1], [2]]


async def test_every_slot_looks_before_any_spends() -> None:
    """All slots are asked without spending first, and then all spend."""
    slots = Slots()
    taken = await acquire_across_slots(slots, three(0, 0, 0), PARTS, commit=True)
    assert taken.spent
    assert slots.calls == [(step, key) for step in ("look", "spend") for key in "abc"]
    assert [verdict.remaining for verdict in taken.statuses] == [2, 2, 2]


async def test_refusal_at_the_look_spends_nowhere() -> None:
    """When one slot refuses, no slot is asked to spend."""
    slots = Slots()
    await slots.buckets.acquire([charge(QUOTA, 3, key="b")])
    taken = await acquire_across_slots(slots, three(0, 0, 0), PARTS, commit=True)
    assert (taken.spent, allowed(taken)) == (False, [True, False, True])
    assert {step for step, _ in slots.calls} == {"look"}


async def test_look_alone_never_spends() -> None:
    """Without commit the look is all there is."""
    slots = Slots()
    taken = await acquire_across_slots(slots, three(0, 0, 0), PARTS, commit=False)
    assert (taken.spent, allowed(taken)) == (False, [True] * 3)
    assert {step for step, _ in slots.calls} == {"look"}


async def test_answers_keep_the_order_of_the_charges() -> None:
    """Slots that hold several charges, out of order, answer each in its place."""
    slots = Slots()
    await slots.buckets.acquire([charge(QUOTA, 1, key="a"), charge(QUOTA, 2, key="c")])
    taken = await acquire_across_slots(slots, three(0, 0, 0), [[2, 0], [1]], commit=True)
    assert [verdict.remaining for verdict in taken.statuses] == [1, 2, 0]


async def test_race_between_look_and_spending_gives_back() -> None:
    """When others spend a slot's last units in between, what the rest has spent is given back."""

    async def others_come_first(key: str) -> None:
        if key == "b":
            await slots.buckets.acquire([charge(QUOTA, 3, key="b")])

    slots = Slots(before_spending=others_come_first)
    taken = await acquire_across_slots(slots, three(0, 0, 0), PARTS, commit=True)
    assert (taken.spent, allowed(taken)) == (False, [True, False, True])
    assert taken.statuses[1].retry_after_us > 0
    # The figures are those of the buckets after everything was given back.
    assert [verdict.remaining for verdict in taken.statuses] == [3, 0, 3]
    assert await slots.remaining("a", "b", "c") == [3, 0, 3]
    assert [key for step, key in slots.calls if step == "settle"] == ["a", "c"]


async def test_race_gives_back_what_shadow_has_spent() -> None:
    """A shadow group's units, too, are given back when the request is refused after all."""

    async def others_come_first(key: str) -> None:
        if key == "a":
            await slots.buckets.acquire([charge(QUOTA, 3, key="a")])

    slots = Slots(before_spending=others_come_first)
    taken = await acquire_across_slots(slots, three(0, 1, 2), PARTS, commit=True)
    assert not taken.spent
    assert await slots.remaining("a", "b", "c") == [0, 3, 3]


async def test_race_in_shadow_refuses_nobody() -> None:
    """A shadow group that no longer fits at the spending is not spent, and refuses nobody."""

    async def others_come_first(key: str) -> None:
        if key == "b":
            await slots.buckets.acquire([charge(QUOTA, 3, key="b")])

    slots = Slots(before_spending=others_come_first)
    taken = await acquire_across_slots(slots, three(0, 1, 2), PARTS, commit=True)
    assert (taken.spent, allowed(taken)) == (True, [True, False, True])
    assert await slots.remaining("a", "b", "c") == [2, 0, 2]


async def test_shadow_that_the_race_broke_is_not_given_back_twice() -> None:
    """What a broken shadow group did not spend is not given back either."""

    async def others_come_first(key: str) -> None:
        await slots.buckets.acquire([charge(QUOTA, 3, key=key)])

    slots = Slots(before_spending=others_come_first)
    charges = three(0, 1, 1)
    taken = await acquire_across_slots(slots, charges, [[0], [1, 2]], commit=True)
    assert not taken.spent
    assert [key for step, key in slots.calls if step == "settle"] == []
    assert await slots.remaining("a", "b", "c") == [0, 0, 3]


async def test_shadow_that_does_not_fit_is_left_out_of_the_spending() -> None:
    """Only what the look found to fit is spent; with nothing to spend the request is let in."""
    slots = Slots()
    await slots.buckets.acquire([charge(QUOTA, 3, key=key) for key in "abc"])
    taken = await acquire_across_slots(slots, three(1, 2, 3), PARTS, commit=True)
    assert (taken.spent, allowed(taken)) == (True, [False] * 3)
    assert {step for step, _ in slots.calls} == {"look"}


async def test_slot_that_fails_gives_the_others_back() -> None:
    """When a slot goes away at the spending, the failure is told and nothing stays spent."""

    async def away(key: str) -> None:
        if key == "c":
            raise StoreUnavailable("gone", kind="connection")

    slots = Slots(before_spending=away)
    with pytest.raises(StoreUnavailable, match="gone"):
        await acquire_across_slots(slots, three(0, 0, 0), PARTS, commit=True)
    assert await slots.remaining("a", "b", "c") == [3, 3, 3]


async def test_failure_to_give_back_is_not_told_in_place_of_the_first() -> None:
    """When giving back fails too, the caller hears what failed first; the units expire."""

    async def away(key: str) -> None:
        if key != "a":
            raise StoreUnavailable(f"no {key or 'way back'}", kind="connection")

    slots = Slots(before_spending=away, before_settling=away)
    with pytest.raises(StoreError, match="no b"):
        await acquire_across_slots(slots, three(0, 0, 0), PARTS, commit=True)
    assert await slots.remaining("a", "b", "c") == [2, 3, 3]
