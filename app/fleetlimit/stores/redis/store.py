"""Buckets in Redis, Valkey or another server of their protocol, shared by all replicas."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import redis.asyncio
from opentelemetry import trace
from redis.exceptions import NoScriptError

from fleetlimit.core.charge import Charge, Settlement
from fleetlimit.core.decision import Verdict
from fleetlimit.core.keys import KeyScheme
from fleetlimit.core.made import made
from fleetlimit.core.quota import Quota
from fleetlimit.limiter.ports import Posted, Pulse, Taken
from fleetlimit.stores.redis.batcher import Lane
from fleetlimit.stores.redis.client import Client, Timeouts, connect, location
from fleetlimit.stores.redis.cluster import ClusterLanes, slot_of, take_apart
from fleetlimit.stores.redis.connection import Wire
from fleetlimit.stores.redis.errors import translate
from fleetlimit.stores.redis.scripts import FIGURES, script

_MAX_KEPT = 4_096


def words(charges: Sequence[Charge], *, commit: bool) -> list[bytes]:
    """Return a word for each charge of one check."""
    begin = "1" if commit else "0"
    found = []
    for charge in charges:
        # One without a lease is the same for all callers.
        write = _write if charge.lease else _kept
        found.append(write(begin, charge.quota, charge.units, charge.group, charge.lease))
        begin = "+"
    return found


def _write(begin: str, quota: Quota, units: int, group: int, lease: str) -> bytes:
    figures = (quota.limit, quota.period_us, quota.burst, units, group)
    return " ".join(map(str, (begin, quota.algorithm.value, *figures, lease))).encode()


_kept = lru_cache(_MAX_KEPT)(_write)


AUDIT = script("audit")


async def post(client: Client, timeouts: Timeouts, keys: list[str], args: list[Any]) -> Posted:
    """Keep a statement, and return what all have stated if its maker is to compare them.

    Args:
        client: The driver's client.
        timeouts: How long to wait; a large answer may take as long as a connection.
        keys: KEYS of the script.
        args: ARGV of the script.

    Raises:
        StoreError: The store did not answer, or not with success.
    """
    call = (AUDIT.sha, len(keys), *keys, *args)
    try:
        async with asyncio.timeout(2 * timeouts.connect + timeouts.operation):
            try:
                reply: Any = await client.evalsha(*call)
            except NoScriptError:
                await client.script_load(AUDIT.text)
                reply = await client.evalsha(*call)
        now_us, word, *stated = reply
        pairs = zip(stated[::2], stated[1::2], strict=True)
        found = {name.decode(): _stated(text) for name, text in pairs}
        return Posted(int(now_us), word.decode(), found)
    except Exception as error:
        raise translate(error) from error


def _stated(text: bytes) -> tuple[int, str]:
    at_us, _, statement = text.decode().partition(":")
    return int(at_us), statement


_TAKE = script("take", joined=True)
_SETTLE, _HEARTBEAT = script("settle"), script("heartbeat")


class RedisStore:
    """A store that all replicas share.

    Args:
        url: Where it is; see `stores.connect`.
        keys: Names of the keys that the heartbeat uses.
        timeouts: How long to wait.
        username: ACL user, in place of the URL's.
        password: Password, in place of the URL's.
        now_us: A clock that buckets run on in place of the server's, for tests.
        sent: Callback with the number of calls of each pipeline.
        tracer: Makes the spans of store calls; OpenTelemetry's global one if None.

    Raises:
        ConfigError: The URL cannot be used.
    """

    shared = True

    def __init__(
        self,
        url: str,
        keys: KeyScheme,
        *,
        timeouts: Timeouts | None = None,
        username: str | None = None,
        password: str | None = None,
        now_us: Callable[[], int] | None = None,
        sent: Callable[[int], None] = lambda _: None,
        tracer: trace.Tracer | None = None,
    ) -> None:
        self.location = location(url)
        self._keys = keys
        self._timeouts = timeouts or Timeouts()
        self.client = connect(url, self._timeouts, username=username, password=password)
        self._cluster = isinstance(self.client, redis.asyncio.RedisCluster)
        self._lane: Lane | ClusterLanes
        if isinstance(self.client, redis.asyncio.RedisCluster):
            self._lane = ClusterLanes(self.client, self._timeouts, sent=sent, tracer=tracer)
        else:
            pool = self.client.connection_pool
            self._lane = Lane(
                Wire(pool.make_connection),
                self.client,
                self._timeouts,
                sent=sent,
                relocate=partial(pool.disconnect, inuse_connections=False),
                tracer=tracer,
            )
        self._now_us = now_us or (lambda: 0)

    async def open(self) -> None:
        """Connect, load the scripts and see that the store answers.

        Raises:
            StoreError: It does not.
        """
        try:
            async with asyncio.timeout(2 * self._timeouts.connect + self._timeouts.operation):
                if isinstance(self.client, redis.asyncio.Redis):
                    # Connections that a restarted server has closed would fail the first command.
                    await self.client.connection_pool.disconnect(inuse_connections=False)
                await self._lane.open()
                for each in (_TAKE, _SETTLE, _HEARTBEAT, AUDIT):
                    await self.client.script_load(each.text)
        except Exception as error:
            raise translate(error) from error

    async def aclose(self) -> None:
        """Close connections."""
        await self._lane.aclose()
        await self.client.aclose()

    def take(self, charges: Sequence[Charge], *, commit: bool = True) -> Awaitable[Taken]:
        """Decide all charges together: one script call, or in a Cluster one for each slot."""
        if self._cluster:
            parts = _by_slot(charges)
            if len(parts) > 1:
                return take_apart(self, charges, parts, commit=commit)
        return self.take_together(charges, commit=commit)

    def take_together(self, charges: Sequence[Charge], *, commit: bool) -> Awaitable[Taken]:
        """Decide charges whose buckets one script call may see."""
        keys = [charge.key for charge in charges]
        args = [self._now_us(), *words(charges, commit=commit)]
        read = _taken_alone if len(keys) == 1 else partial(_taken, len(keys))
        return self._lane.call(_TAKE, keys, args, read)

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[int]:
        """Correct charges that were spent, and return when each was."""
        slots: dict[int, list[Settlement]] = {}
        found = [slot_of(each.key) if self._cluster else 0 for each in settlements]
        for slot, each in zip(found, settlements, strict=True):
            slots.setdefault(slot, []).append(each)
        times_us = await asyncio.gather(*(self._settle(part) for part in slots.values()))
        by_slot = dict(zip(slots, times_us, strict=True))
        return [by_slot[slot] for slot in found]

    async def _settle(self, settlements: Sequence[Settlement]) -> int:
        args: list[Any] = [self._now_us()]
        for each in settlements:
            quota = each.quota
            args += (quota.algorithm.value, quota.limit, quota.period_us, quota.burst)
            args += (each.delta, each.taken_us, each.units, each.lease)
        return await self._lane.call(_SETTLE, [each.key for each in settlements], args, int)

    async def forget(self, keys: Sequence[str]) -> int:
        """Delete buckets and return how many there were."""
        try:
            async with asyncio.timeout(self._timeouts.connect):
                return sum([int(await self.client.delete(key)) for key in keys])
        except Exception as error:
            raise translate(error) from error

    async def heartbeat(self, replica: str, ttl_us: int) -> Pulse:
        """Announce a replica for `ttl_us` microseconds, 0 to leave, and count the live ones."""
        keys = [self._keys.replicas, self._keys.epoch]
        args = [self._now_us(), replica, ttl_us, secrets.token_hex(8)]
        return await self._lane.call(_HEARTBEAT, keys, args, _pulse)

    async def audit(
        self, replica: str, statement: str, word: str, ttl_us: int, *, last: bool = False
    ) -> Posted:
        """Keep a replica's statement, and hand all of them to the first replica by name."""
        keys = [self._keys.statements, self._keys.auditors]
        args = [self._now_us(), replica, statement, word, ttl_us, int(last)]
        return await post(self.client, self._timeouts, keys, args)


def _by_slot(charges: Sequence[Charge]) -> list[list[int]]:
    """Return the places of the charges that one script call may hold."""
    slots: dict[int, list[int]] = {}
    for place, charge in enumerate(charges):
        slots.setdefault(slot_of(charge.key), []).append(place)
    return list(slots.values())


def _taken_alone(reply: list[int]) -> Taken:
    now_us, spent, fits, remaining, retry_us, next_us, reset_us = reply
    verdict = made(Verdict, (fits == 1, remaining, retry_us, next_us, reset_us))
    return made(Taken, (now_us, (verdict,), spent == 1, (), False))


def _taken(charges: int, reply: list[int]) -> Taken:
    now_us, spent, *figures = reply
    verdicts = tuple(
        Verdict(bool(fits), remaining, retry_us, next_us, reset_us)
        for fits, remaining, retry_us, next_us, reset_us in (
            figures[at : at + FIGURES] for at in range(0, charges * FIGURES, FIGURES)
        )
    )
    return Taken(now_us, verdicts, bool(spent))


def _pulse(reply: list[Any]) -> Pulse:
    replicas, epoch, server = reply
    return Pulse(int(replicas), epoch.decode(), server.decode())
