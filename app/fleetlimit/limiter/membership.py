"""Replica membership: the live replicas, their key secrets, and whether the store has its state.

Each replica sends a heartbeat to the store. While the store is unavailable the last number is used,
and after its return until all replicas had time for a heartbeat. A replica that counted only itself
would use the whole limit as its share if the store failed again.
"""

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import Callable
from typing import Final

from fleetlimit.core.keys import KeyScheme
from fleetlimit.core.quota import SECOND_US
from fleetlimit.errors import ConfigError, KeySecretError, StoreError
from fleetlimit.limiter.circuit_breaker import CircuitBreaker
from fleetlimit.limiter.events import (
    Event,
    KeySecretsCounted,
    ReplicasCounted,
    StoreJoined,
    StoreServerChanged,
    StoreStateLost,
)
from fleetlimit.limiter.periodic import PeriodicTask
from fleetlimit.limiter.ports import Sleep, Store

INTERVAL_SECONDS: Final = 2.0
TTL_US: Final = 6 * SECOND_US
"""Lifetime of a heartbeat: two may be lost."""
_RECOVERY_HEARTBEATS: Final = 3
"""Heartbeats after an outage until every replica has sent one: as long as `TTL_US`."""


class ReplicaMembership:
    """Registers this replica, and counts all replicas.

    Args:
        store: Where replicas register.
        get_breaker: Returns the circuit breaker of the server that has the membership.
        emit: Receives events of changes.
        replica: Name of this replica; generated if left out.
        key_scheme: Names of buckets, of which the replicas must share the secret.
        min_replicas: Lower bound of the number, also used before the first reply of the store.
        sleep: Pause between heartbeats.
    """

    def __init__(
        self,
        store: Store,
        get_breaker: Callable[[], CircuitBreaker],
        emit: Callable[[Event], None],
        *,
        key_scheme: KeyScheme,
        replica: str = "",
        min_replicas: int = 1,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.replicas = min_replicas
        self._replica = replica
        self._generated: tuple[int, str] = (0, "")
        self._store = store
        self._get_breaker = get_breaker
        self._emit = emit
        self._min_replicas = min_replicas
        self._key_scheme = key_scheme
        self._fingerprint = key_scheme.fingerprint
        self._secrets_in_use: frozenset[str] = frozenset()
        self._epoch = ""
        self._server = ""
        self._reported = 0
        self._recovery_heartbeats = 0
        self._heartbeat_task = PeriodicTask(
            self.heartbeat, INTERVAL_SECONDS, failure_event="heartbeat.failed", sleep=sleep
        )

    @property
    def replica(self) -> str:
        """Name of this replica. A generated name is that of one process.

        A server such as `gunicorn --preload` forks its workers after the limiter was made. With
        one name they would count as one replica, and each would admit the whole limit while the
        store is unavailable.
        """
        if self._replica:
            return self._replica
        pid = os.getpid()
        if self._generated[0] != pid:
            self._generated = pid, f"{socket.gethostname()}-{pid}-{secrets.token_hex(3)}"
        return self._generated[1]

    async def start(self) -> None:
        """Send a heartbeat now and periodically; an unavailable store raises nothing."""
        await self.heartbeat()
        if self._store.shared:
            self._heartbeat_task.start()

    async def heartbeat(self) -> None:
        """Send a heartbeat, and evaluate the reply."""
        try:
            await self._get_breaker().call("heartbeat", self.send_heartbeat)
        except StoreError:
            self._recovery_heartbeats = _RECOVERY_HEARTBEATS

    async def send_heartbeat(self) -> None:
        """Send a heartbeat without going through the circuit breaker, whose probe uses it.

        Raises:
            StoreError: The store is unavailable.
        """
        reply = await self._store.heartbeat(self.replica, TTL_US)
        if self._epoch not in {"", reply.epoch}:
            self._emit(StoreStateLost())
            self._recovery_heartbeats = _RECOVERY_HEARTBEATS
        elif self._server not in {"", reply.server}:
            self._emit(StoreServerChanged())
        if self._epoch != reply.epoch:
            self._emit(StoreJoined(reply.epoch, self._fingerprint))
        self._epoch, self._server = reply.epoch, reply.server
        self._update_count(max(self._min_replicas, reply.replicas))
        before, self._secrets_in_use = self._secrets_in_use, reply.key_secrets
        others = len(reply.key_secrets - {self._fingerprint})
        if others != len(before - {self._fingerprint}):
            self._emit(KeySecretsCounted(others))

    async def verify_key_secret(self) -> bool:
        """Return whether replicas use this process's key secret; without any, return False.

        A memory store belongs to this process alone, so the result is True. While the server of the
        membership is unavailable, the result is that of the last heartbeat: the buckets may be on
        another shard of a Cluster.

        Raises:
            KeySecretError: Replicas use another secret, so their buckets have other names.
            StoreError: The store is unavailable, and there was no heartbeat.
        """
        if not self._store.shared:
            return True
        try:
            secrets_in_use = await self._get_breaker().call("key_secrets", self._store.key_secrets)
        except StoreError:
            secrets_in_use = self._secrets_in_use
            if not secrets_in_use:
                raise
        if secrets_in_use - {self._fingerprint}:
            raise KeySecretError(
                f"replicas at {self._store.location} hash callers with another key secret, so that "
                "their buckets are not found: give this process their FLEETLIMIT_KEY_SECRET; while "
                "a new secret is rolled out, wait until every replica has it"
            )
        return bool(secrets_in_use)

    async def require_fleet(self) -> None:
        """Raise if this process names buckets in another way than the replicas.

        A store that lost its state has no record of this replica until the next heartbeat, so this
        replica counts itself.

        Raises:
            KeySecretError: Replicas use another secret.
            ConfigError: This process is no replica, and the store has no record of one.
            StoreError: The store is unavailable.
        """
        # The epoch comes with the reply to this replica's first heartbeat.
        if not await self.verify_key_secret() and not self._epoch:
            raise ConfigError(
                f"{self._store.location} has no record of a replica with the key prefix "
                f"{self._key_scheme.prefix!r}: correct the store or FLEETLIMIT_KEY_PREFIX, try "
                "again in a moment if the store has just lost its data, or leave out the store to "
                "see the policies without the state of their limits"
            )

    def _update_count(self, replicas: int) -> None:
        if replicas < self.replicas and self._recovery_heartbeats:
            self._recovery_heartbeats -= 1
        else:
            self.replicas = replicas
        if self.replicas != self._reported:
            self._reported = self.replicas
            self._emit(ReplicasCounted(self.replicas))

    async def aclose(self) -> None:
        """Unregister this replica, so that the shares of the others grow at once."""
        if await self._heartbeat_task.stop():
            with contextlib.suppress(StoreError):
                await self._get_breaker().call("heartbeat", self._store.heartbeat, self.replica, 0)
