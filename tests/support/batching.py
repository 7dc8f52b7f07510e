"""Ways to send checks to a store: coalesced, pipelined or one by one, with the same decisions."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from enum import StrEnum
from typing import Final

import pytest

from fleetlimit.core.charge import Charge
from fleetlimit.core.keys import KeyScheme
from fleetlimit.core.quota import Algorithm
from fleetlimit.limiter.store_replies import AcquireResult
from fleetlimit.stores.redis.store import RedisStore
from support.shortcuts import Shortcut, disable
from support.stores import LONG_TIMEOUTS, allowed_status, charge, quota_of


class Batching(StrEnum):
    """How a check is sent."""

    COALESCED = "coalesced"
    """Between two other checks, in the same script call."""
    PIPELINED = "pipelined"
    """Between two other checks, in the same pipeline, each with its own script call."""
    SINGLE = "single"
    """In a pipeline of its own."""


_DISABLED: Final = {
    Batching.COALESCED: (),
    Batching.PIPELINED: (Shortcut.COALESCING,),
    Batching.SINGLE: (Shortcut.BATCHING, Shortcut.COALESCING),
}


@contextlib.contextmanager
def use_batching(batching: Batching) -> Iterator[Batching]:
    """Send all checks in one way."""
    with pytest.MonkeyPatch.context() as patch:
        disable(_DISABLED[batching], patch)
        yield batching


class InterleavedStore(RedisStore):
    """Store that sends every check between two dry runs, and verifies their results."""

    async def acquire_in_slot(
        self, charges: Sequence[Charge], *, dry_run: bool, is_repeated: bool = False
    ) -> AcquireResult:
        """Acquire, while two dry runs read other buckets of the same slot."""
        key = charges[0].key
        before, result, after = await asyncio.gather(
            self._peek(f"{key}:before", 977, 983),
            self._acquire(charges, dry_run=dry_run, is_repeated=is_repeated),
            self._peek(f"{key}:after", 991),
        )
        assert before.store_now_us <= result.store_now_us <= after.store_now_us
        return result

    async def _acquire(
        self, charges: Sequence[Charge], *, dry_run: bool, is_repeated: bool
    ) -> AcquireResult:
        # A coroutine, so that gather() starts the three calls in order.
        return await super().acquire_in_slot(charges, dry_run=dry_run, is_repeated=is_repeated)

    async def _peek(self, key: str, *limits: int) -> AcquireResult:
        result = await super().acquire_in_slot(
            [
                charge(quota_of(Algorithm.TOKEN_BUCKET, limit), key=f"{key}{index}")
                for index, limit in enumerate(limits)
            ],
            dry_run=True,
        )
        assert result.statuses == tuple(allowed_status(limit, 0, 0) for limit in limits)
        assert not result.spent
        return result


def make_store(
    batching: Batching,
    url: str,
    *,
    now_us: Callable[[], int] | None = None,
    on_pipeline_sent: Callable[[int], None] = lambda _: None,
) -> RedisStore:
    """Return an unopened store that sends its checks in one way."""
    kind = RedisStore if batching is Batching.SINGLE else InterleavedStore
    return kind(
        url, KeyScheme(), timeouts=LONG_TIMEOUTS, now_us=now_us, on_pipeline_sent=on_pipeline_sent
    )


@contextlib.asynccontextmanager
async def open_empty_store(
    batching: Batching,
    url: str,
    *,
    now_us: Callable[[], int] | None = None,
    on_pipeline_sent: Callable[[int], None] = lambda _: None,
) -> AsyncIterator[RedisStore]:
    """Open a store, delete all of its keys, and close it at the end."""
    store = make_store(batching, url, now_us=now_us, on_pipeline_sent=on_pipeline_sent)
    await store.open()
    try:
        await store.client.flushall()
        yield store
    finally:
        await store.aclose()
