"""How many replicas are alive, and whether the store still has its state.

Each replica announces itself in the store. While the store is away the last known number is used,
and after its return until all had the time to announce themselves again: a replica that counts
itself alone would take the whole limit for its share when the store goes away once more.
"""

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import Callable

from fleetlimit.core.quota import SECOND_US
from fleetlimit.errors import StoreError
from fleetlimit.limiter.circuit_breaker import Breaker
from fleetlimit.limiter.events import Event, ReplicasCounted, StoreServerChanged, StoreStateLost
from fleetlimit.limiter.periodic import Repeated
from fleetlimit.limiter.ports import Sleep, Store

INTERVAL_SECONDS = 2.0
TTL_US = 6 * SECOND_US
"""A replica counts until it has missed two announcements."""
_BEATS_TO_RETURN = 3
"""Announcements after an outage until every replica has made one: as long as `TTL_US`."""


class Census:
    """Announces this replica and counts all.

    Args:
        store: Where replicas announce themselves.
        breaker: The way to it.
        tell: Hears of changes.
        replica: This replica's name; made up when left out.
        at_least: Replicas to count with when the store knows of fewer, or was never reached.
        sleep: How to wait between announcements.
    """

    def __init__(
        self,
        store: Store,
        breaker: Breaker,
        tell: Callable[[Event], None],
        *,
        replica: str = "",
        at_least: int = 1,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.replicas = at_least
        self.replica = replica or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._store = store
        self._breaker = breaker
        self._tell = tell
        self._at_least = at_least
        self._epoch = ""
        self._server = ""
        self._told = 0
        self._returning = 0
        self._beats = Repeated(self.beat, INTERVAL_SECONDS, sleep)

    async def start(self) -> None:
        """Announce this replica now and from now on; a store that is away is no obstacle."""
        await self.beat()
        if self._store.shared:
            self._beats.start()

    async def beat(self) -> None:
        """Announce this replica once, and take note of what the store says."""
        try:
            await self._breaker.call("heartbeat", self.pulse)
        except StoreError:
            self._returning = _BEATS_TO_RETURN

    async def pulse(self) -> None:
        """Do the same past the breaker, as part of its probe.

        Raises:
            StoreError: The store is away.
        """
        pulse = await self._store.heartbeat(self.replica, TTL_US)
        if self._epoch not in {"", pulse.epoch}:
            self._tell(StoreStateLost())
            self._returning = _BEATS_TO_RETURN
        elif self._server not in {"", pulse.server}:
            self._tell(StoreServerChanged())
        self._epoch, self._server = pulse.epoch, pulse.server
        self._count(max(self._at_least, pulse.replicas))

    def _count(self, replicas: int) -> None:
        if replicas < self.replicas and self._returning:
            self._returning -= 1
        else:
            self.replicas = replicas
        if self.replicas != self._told:
            self._told = self.replicas
            self._tell(ReplicasCounted(self.replicas))

    async def aclose(self) -> None:
        """Stop announcing, and leave, so that the others' shares grow at once."""
        if await self._beats.stop():
            with contextlib.suppress(StoreError):
                await self._breaker.call("heartbeat", self._store.heartbeat, self.replica, 0)
