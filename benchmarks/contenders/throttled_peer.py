"""throttled-py, asynchronous, with GCRA, the algorithm of Fleetlimit's token bucket."""

from throttled.asyncio import RateLimiterType, Throttled
from throttled.asyncio.rate_limiter import per_min
from throttled.asyncio.store import RedisStore

from contenders.depending import Check, limited
from contenders.export import LIMIT, STORE


async def open_check() -> Check:
    """Return a GCRA check."""
    throttle = Throttled(
        using=RateLimiterType.GCRA.value,
        quota=per_min(LIMIT, burst=LIMIT),
        store=RedisStore(server=STORE),
    )

    async def check(caller: str) -> bool:
        return not (await throttle.limit(caller)).limited

    return check


app = limited(open_check)
