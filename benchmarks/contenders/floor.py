"""Lower bound of a store round trip: a trivial script by redis-py, once for each request."""

import redis.asyncio

from contenders.depending import Check, limited
from contenders.export import LIMIT, STORE

SCRIPT = """
local n = redis.call('INCR', KEYS[1])
if n == 1 then redis.call('PEXPIRE', KEYS[1], 60000) end
return n
"""


async def open_check() -> Check:
    """Return a check that counts requests in a fixed window."""
    client = redis.asyncio.Redis.from_url(STORE)
    sha = await client.script_load(SCRIPT)

    async def check(caller: str) -> bool:
        count = await client.evalsha(sha, 1, f"floor:{caller}")
        return int(count) <= LIMIT

    return check


app = limited(open_check)
