"""Bucket events: which listeners an event calls, and which caches each event invalidates."""

from collections.abc import Sequence

import pytest

from fleetlimit.core.policy_set import PolicySet
from fleetlimit.errors import StoreUnavailable
from fleetlimit.limiter.bucket_events import BucketEvents
from support.limiter import Bench, rate_policy, timeout_error


def test_bucket_events_call_the_listeners_of_the_event_in_order() -> None:
    """A listener is called for the events that it subscribed to, after earlier listeners."""
    events, calls = BucketEvents(), list[tuple[str, Sequence[str]]]()
    events.subscribe(
        on_reset=lambda keys: calls.append(("reset", keys)),
        on_policies_replaced=lambda: calls.append(("replaced", [])),
    )
    events.subscribe(
        on_reset=lambda keys: calls.append(("reset too", keys)),
        on_adjusted=lambda keys: calls.append(("adjusted", keys)),
        on_refund_lost=lambda keys: calls.append(("lost", keys)),
    )
    events.emit_reset(["a"])
    events.emit_adjusted(["b"])
    events.emit_refund_lost(["c"])
    events.emit_policies_replaced()
    assert calls == [
        ("reset", ["a"]),
        ("reset too", ["a"]),
        ("adjusted", ["b"]),
        ("lost", ["c"]),
        ("replaced", []),
    ]


@pytest.mark.parametrize("down", [False, True])
async def test_limiter_reset_emits_after_the_reply(down: bool) -> None:  # noqa: FBT001 - a case
    """A reset reaches the caches after the store's reply or failure, with every bucket's key."""
    async with Bench(rate_policy("p", "5/minute")) as bench:
        seen: list[tuple[int, Sequence[str]]] = []
        deletions = bench.store.calls
        bench.limiter._bucket_events.subscribe(
            on_reset=lambda keys: seen.append((deletions.count("delete"), keys))
        )
        if down:
            bench.store.errors["delete"] = timeout_error()
            with pytest.raises(StoreUnavailable):
                await bench.limiter.reset("p", principal="ann")
        else:
            await bench.limiter.reset("p", principal="ann")
        ((count, keys),) = seen
        assert (count, len(keys)) == (1, 1)


async def test_active_policies_emit_before_the_loaded_event() -> None:
    """The caches are invalidated before observers learn of the new policies."""
    async with Bench() as bench:
        order: list[object] = []
        bench.limiter.active_policies.subscribe(
            lambda: order.append(len(bench.recorder.events.entries))
        )
        before = len(bench.recorder.events.entries)
        bench.limiter.active_policies.replace(PolicySet())
        assert order == [before]
        assert len(bench.recorder.events.entries) == before + 1
