"""Store statistics: the store's clock, on which the limits run, and its count of script calls."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import redis

from fleetlimit.errors import ConfigError
from fleetlimit.stores.redis.client import redacted_url
from fleetlimit.stores.redis.errors import to_store_error

_TIMEOUT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class StoreStats:
    """Statistics of a store.

    Args:
        store_now_us: The store's clock, in microseconds since the epoch.
        script_calls: Script calls since the server started; None for `memory://`.
    """

    store_now_us: int
    script_calls: int | None


StatsReader = Callable[[], StoreStats]
"""Blocking read of the statistics, used before the first request and after the last response.

The asynchronous client of redis-py writes through `asyncio.wait_for`, which before Python 3.12 can
swallow a cancellation, and a signal would be lost with it.
"""


@contextlib.contextmanager
def open_stats(url: str) -> Iterator[StatsReader]:
    """Connect to a store; `memory://` has a clock only.

    Raises:
        ConfigError: The URL is not that of a single server.
        StoreError: The store is unavailable; raised by each read.
    """
    scheme = urlsplit(url).scheme
    if scheme == "memory":
        yield _read_own_clock
        return
    if scheme not in {"redis", "rediss"}:
        raise ConfigError(
            f"{redacted_url(url)!r} is not a single server, and script calls are counted at one "
            "server: write redis://host:6379/0"
        )
    client = redis.Redis.from_url(
        url, socket_timeout=_TIMEOUT_SECONDS, socket_connect_timeout=_TIMEOUT_SECONDS
    )

    def read() -> StoreStats:
        try:
            seconds, micros = client.time()
            stats: dict[str, Any] = client.info("commandstats")
        except Exception as error:
            raise to_store_error(error) from error
        calls = int(stats.get("cmdstat_evalsha", {}).get("calls", 0))
        return StoreStats(int(seconds) * 1_000_000 + int(micros), calls)

    with contextlib.closing(client):
        yield read


def _read_own_clock() -> StoreStats:
    return StoreStats(time.time_ns() // 1_000, None)
