"""limits, asynchronous, with the fixed window, its fastest strategy."""

from limits import parse
from limits.aio.storage import RedisStorage
from limits.aio.strategies import FixedWindowRateLimiter

from contenders.depending import Check, limited
from contenders.export import LIMIT, STORE


async def open_check() -> Check:
    """Return the check of a fixed window."""
    limiter = FixedWindowRateLimiter(RedisStorage(f"async+{STORE}", implementation="redispy"))
    item = parse(f"{LIMIT}/minute")

    async def check(caller: str) -> bool:
        return bool(await limiter.hit(item, caller))

    return check


app = limited(open_check)
