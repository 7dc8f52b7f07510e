"""PyrateLimiter with GCRA in Redis, one bucket for each caller."""

from pyrate_limiter import BucketFactory, Limiter, Rate, RateItem
from pyrate_limiter.abstracts.algorithm import GCRA
from pyrate_limiter.buckets.redis_state import RedisStateStore
from pyrate_limiter.buckets.state_bucket import StateBucket
from redis.asyncio import Redis

from contenders.depending import Check, limited
from contenders.export import LIMIT, STORE


class Callers(BucketFactory):  # type: ignore[misc]  # no types
    """Factory of one bucket for each caller."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._rates = [Rate(LIMIT, 60_000)]
        self._buckets: dict[str, StateBucket] = {}

    def wrap_item(self, name: str, weight: int = 1) -> RateItem:
        """Return an item with the time of the bucket's clock."""
        return RateItem(name, self._bucket(name).now(), weight=weight)

    def get(self, item: RateItem) -> StateBucket:
        """Return the caller's bucket."""
        return self._bucket(item.name)

    def _bucket(self, name: str) -> StateBucket:
        found = self._buckets.get(name)
        if found is None:
            store = RedisStateStore(self._client, f"pyrate:{name}")
            found = self._buckets[name] = StateBucket(self._rates, GCRA(), store)
        return found


async def open_check() -> Check:
    """Return a GCRA check by `try_acquire`; the lock of `try_acquire_async` makes that slower."""
    limiter = Limiter(Callers(Redis.from_url(STORE)))

    async def check(caller: str) -> bool:
        return bool(await limiter.try_acquire(caller, blocking=False))

    return check


app = limited(open_check)
