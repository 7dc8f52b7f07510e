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
from fleetlimit.limiter.circuit_breaker import CircuitBreaker
from fleetlimit.limiter.events import Event, ReplicasCounted, StoreServerChanged, StoreStateLost
from fleetlimit.limiter.periodic import PeriodicTask
from fleetlimit.limiter.ports import Sleep, Store

INTERVAL_SECONDS = 2.0
TTL_US = 6 * SECOND_US
"""A replica counts until it has missed two announcements."""
_RECOVERY_HEARTBEATS = 3
"""Announcements after an outage until every replica has made one: as long as `TTL_US`."""


class ReplicaMembership:
    """Announces this replica and counts all.

    Args:
        store: Where replicas announce themselves.
        breaker: The way to it.
        emit: Hears of changes.
        replica: This replica's name; made up when left out.
        min_replicas: Replicas to count with when the store knows of fewer, or was never reached.
        sleep: How to wait between announcements.
    """

    def __init__(
        self,
        store: Store,
        breaker: CircuitBreaker,
        emit: Callable[[Event], None],
        *,
        replica: str = "",
        min_replicas: int = 1,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.replicas = min_replicas
        self.replica = replica or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._store = store
        self._breaker = breaker
        self._emit = emit
        self._min_replicas = min_replicas
        self._epoch = ""
        self._server = ""
        self._reported = 0
        self._recovery_heartbeats = 0
        self._heartbeat_task = PeriodicTask(self.heartbeat, INTERVAL_SECONDS, sleep)

    async def start(self) -> None:
        """Announce this replica now and from now on; a store that is away is no obstacle."""
        await self.heartbeat()
        if self._store.shared:
            self._heartbeat_task.start()

    async def heartbeat(self) -> None:
        """Announce this replica once, and take note of what the store says."""
        try:
            await self._breaker.call("heartbeat", self.send_heartbeat)
        except StoreError:
            self._recovery_heartbeats = _RECOVERY_HEARTBEATS

    async def send_heartbeat(self) -> None:
        """Do the same past the breaker, as part of its probe.

        Raises:
            StoreError: The store is away.
        """
        reply = await self._store.heartbeat(self.replica, TTL_US)
        if self._epoch not in {"", reply.epoch}:
            self._emit(StoreStateLost())
            self._recovery_heartbeats = _RECOVERY_HEARTBEATS
        elif self._server not in {"", reply.server}:
            self._emit(StoreServerChanged())
        self._epoch, self._server = reply.epoch, reply.server
        self._update_count(max(self._min_replicas, reply.replicas))

    def _update_count(self, replicas: int) -> None:
        if replicas < self.replicas and self._recovery_heartbeats:
            self._recovery_heartbeats -= 1
        else:
            self.replicas = replicas
        if self.replicas != self._reported:
            self._reported = self.replicas
            self._emit(ReplicasCounted(self.replicas))

    async def aclose(self) -> None:
        """Stop announcing, and leave, so that the others' shares grow at once."""
        if await self._heartbeat_task.stop():
            with contextlib.suppress(StoreError):
                await self._breaker.call("heartbeat", self._store.heartbeat, self.replica, 0)
