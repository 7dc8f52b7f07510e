"""The ways in which checks travel to a store: whichever it is, they are decided alike."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from typing import Final

import pytest

from fleetlimit.core.charge import Charge
from fleetlimit.core.keys import KeyScheme
from fleetlimit.core.quota import Algorithm
from fleetlimit.limiter.ports import AcquireResult
from fleetlimit.stores.redis.store import RedisStore
from support.savings import Shortcut, disable
from support.stores import LONG_TIMEOUTS, allowed_status, charge, quota_of


class Batching(StrEnum):
    """How a check travels."""

    COALESCED = "folded"
    """Between two others, in one script call with them."""
    PIPELINED = "batched"
    """Between two others, in one pipeline with them, and a script call of its own."""
    SINGLE = "single"
    """In a pipeline of its own."""


_WITHOUT: Final = {
    Batching.COALESCED: (),
    Batching.PIPELINED: (Shortcut.COALESCING,),
    Batching.SINGLE: (Shortcut.BATCHING, Shortcut.COALESCING),
}


@contextlib.contextmanager
def use_batching(batching: Batching) -> Iterator[Batching]:
    """Let everything travel in one way."""
    with pytest.MonkeyPatch.context() as patch:
        disable(_WITHOUT[batching], patch)
        yield batching


class InterleavedStore(RedisStore):
    """A store whose every check travels between two others, which are decided rightly as well."""

    async def acquire_in_slot(self, charges: Sequence[Charge], *, commit: bool) -> AcquireResult:
        """Decide, while others look at buckets of their own in the same slot."""
        key = charges[0].key
        before, taken, after = await asyncio.gather(
            self._look(f"{key}:before", 977, 983),
            self._acquire(charges, commit=commit),
            self._look(f"{key}:after", 991),
        )
        assert before.store_now_us <= taken.store_now_us <= after.store_now_us
        return taken

    async def _acquire(self, charges: Sequence[Charge], *, commit: bool) -> AcquireResult:
        # In its turn, and not when it is made.
        return await super().acquire_in_slot(charges, commit=commit)

    async def _look(self, key: str, *limits: int) -> AcquireResult:
        taken = await super().acquire_in_slot(
            [
                charge(quota_of(Algorithm.TOKEN_BUCKET, limit), key=f"{key}{place}")
                for place, limit in enumerate(limits)
            ],
            commit=False,
        )
        assert taken.statuses == tuple(allowed_status(limit, 0, 0) for limit in limits)
        assert not taken.spent
        return taken


def make_store(
    batching: Batching,
    url: str,
    *,
    now_us: Callable[[], int] | None = None,
    on_pipeline_sent: Callable[[int], None] = lambda _: None,
) -> RedisStore:
    """Return a store that is not yet open, whose checks travel in one way."""
    kind = RedisStore if batching is Batching.SINGLE else InterleavedStore
    return kind(
        url, KeyScheme(), timeouts=LONG_TIMEOUTS, now_us=now_us, on_pipeline_sent=on_pipeline_sent
    )
