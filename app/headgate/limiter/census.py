"""How many replicas are alive, and whether the store still has its state.

Each replica announces itself in the store. While the store is away the last known number is used.
"""

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import Callable

from headgate.core.errors import StoreError
from headgate.core.quota import SECOND_US
from headgate.limiter.breaker import Breaker
from headgate.limiter.events import Event, ReplicasCounted, StoreStateLost
from headgate.limiter.ports import Sleep, Store

INTERVAL_SECONDS = 2.0
TTL_US = 6 * SECOND_US
"""A replica counts until it has missed two announcements."""


class Census:
    """Announces this replica and counts all.

    Args:
        store: Where replicas announce themselves.
        breaker: The way to it.
        tell: Hears of changes.
        replica: This replica's name; made up when left out.
        sleep: How to wait between announcements.
    """

    def __init__(
        self,
        store: Store,
        breaker: Breaker,
        tell: Callable[[Event], None],
        *,
        replica: str = "",
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.replicas = 1
        self.replica = replica or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._store = store
        self._breaker = breaker
        self._tell = tell
        self._sleep = sleep
        self._epoch = ""
        self._beating: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Announce this replica now and from now on; a store that is away is no obstacle."""
        await self.beat()
        if self._store.shared:
            self._beating = asyncio.get_running_loop().create_task(self._beat())

    async def _beat(self) -> None:
        while True:
            await self._sleep(INTERVAL_SECONDS)
            await self.beat()

    async def beat(self) -> None:
        """Announce this replica once, and take note of what the store says."""
        with contextlib.suppress(StoreError):
            await self._breaker.call("heartbeat", self.pulse)

    async def pulse(self) -> None:
        """Do the same past the breaker, as part of its probe.

        Raises:
            StoreError: The store is away.
        """
        pulse = await self._store.heartbeat(self.replica, TTL_US)
        if self._epoch not in {"", pulse.epoch}:
            self._tell(StoreStateLost())
        self._epoch = pulse.epoch
        if pulse.replicas != self.replicas:
            self.replicas = max(1, pulse.replicas)
            self._tell(ReplicasCounted(self.replicas))

    async def aclose(self) -> None:
        """Stop announcing, and leave, so that the others' shares grow at once."""
        if self._beating is None:
            return
        self._beating.cancel()
        await asyncio.wait({self._beating})
        self._beating = None
        with contextlib.suppress(StoreError):
            await self._breaker.call("heartbeat", lambda: self._store.heartbeat(self.replica, 0))
