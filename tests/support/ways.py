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
from fleetlimit.limiter.ports import Taken
from fleetlimit.stores.redis.store import RedisStore
from support.savings import Saving, leave_out
from support.stores import PATIENT, admits, charge, quota_of


class Way(StrEnum):
    """How a check travels."""

    FOLDED = "folded"
    """Between two others, in one script call with them."""
    BATCHED = "batched"
    """Between two others, in one pipeline with them, and a script call of its own."""
    SINGLE = "single"
    """In a pipeline of its own."""


_WITHOUT: Final = {
    Way.FOLDED: (),
    Way.BATCHED: (Saving.FOLDING,),
    Way.SINGLE: (Saving.BATCHING, Saving.FOLDING),
}


@contextlib.contextmanager
def going(way: Way) -> Iterator[Way]:
    """Let everything travel in one way."""
    with pytest.MonkeyPatch.context() as patch:
        leave_out(_WITHOUT[way], patch)
        yield way


class InCompany(RedisStore):
    """A store whose every check travels between two others, which are decided rightly as well."""

    async def take_together(self, charges: Sequence[Charge], *, commit: bool) -> Taken:
        """Decide, while others look at buckets of their own in the same slot."""
        key = charges[0].key
        before, taken, after = await asyncio.gather(
            self._look(f"{key}:before", 977, 983),
            self._take(charges, commit=commit),
            self._look(f"{key}:after", 991),
        )
        assert before.now_us <= taken.now_us <= after.now_us
        return taken

    async def _take(self, charges: Sequence[Charge], *, commit: bool) -> Taken:
        # In its turn, and not when it is made.
        return await super().take_together(charges, commit=commit)

    async def _look(self, key: str, *limits: int) -> Taken:
        taken = await super().take_together(
            [
                charge(quota_of(Algorithm.TOKEN_BUCKET, limit), key=f"{key}{place}")
                for place, limit in enumerate(limits)
            ],
            commit=False,
        )
        assert taken.verdicts == tuple(admits(limit, 0, 0) for limit in limits)
        assert not taken.spent
        return taken


def store_on(
    way: Way,
    url: str,
    *,
    now_us: Callable[[], int] | None = None,
    sent: Callable[[int], None] = lambda _: None,
) -> RedisStore:
    """Return a store that is not yet open, whose checks travel in one way."""
    kind = RedisStore if way is Way.SINGLE else InCompany
    return kind(url, KeyScheme(), timeouts=PATIENT, now_us=now_us, sent=sent)
