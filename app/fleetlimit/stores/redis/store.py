"""Store in Redis, Valkey or a compatible server, shared by all replicas."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from operator import attrgetter
from typing import Any

import redis.asyncio
from opentelemetry import trace
from redis.exceptions import NoScriptError

from fleetlimit.core.charge import Adjustment, Charge
from fleetlimit.core.keys import KeyScheme
from fleetlimit.errors import StoreError
from fleetlimit.limiter.own_loop import OwnLoop
from fleetlimit.limiter.ports import ONE_NODE, AdjustFailed
from fleetlimit.limiter.store_replies import AcquireResult, AuditReply, HeartbeatReply, StoredReport
from fleetlimit.stores.bucket_clock import BucketClock
from fleetlimit.stores.redis.across_slots import SlotIndices, acquire_across_slots
from fleetlimit.stores.redis.batcher import CommandBatcher
from fleetlimit.stores.redis.calendar_windows import CalendarWindows
from fleetlimit.stores.redis.charge_encoding import encode_adjustments, encode_charges
from fleetlimit.stores.redis.client import Timeouts, close_idle, create_client, redacted_url
from fleetlimit.stores.redis.cluster import ClusterBatchers, slot_of
from fleetlimit.stores.redis.connection import ConnectionHolder
from fleetlimit.stores.redis.credentials import Credentials
from fleetlimit.stores.redis.errors import to_store_error
from fleetlimit.stores.redis.reply_decoding import (
    decode_acquired,
    decode_adjusted,
    decode_count,
    decode_fingerprints,
    decode_heartbeat,
    decode_single,
)
from fleetlimit.stores.redis.scripts import load_script

_KEY = attrgetter("key")

MAX_ADJUSTMENTS = 64
"""Adjustments in one script call. At some 15 us for each, the call occupies the server for about a
millisecond; the refunds of all prefetches of a replica may be thousands."""

_EXCHANGE_REPORTS = load_script("exchange_reports")


Execute = Callable[..., Awaitable[Any]]
"""Runs a command on the server of a key; the arguments are the key and the command."""


async def _exchange_reports(
    execute: Execute, timeouts: Timeouts, keys: list[str], args: list[Any]
) -> AuditReply:
    """Run `exchange_reports.lua` outside the batcher, because its reply can be large.

    Args:
        execute: Runs a command outside the batcher.
        timeouts: Timeouts of the call; a large reply may take as long as a connection.
        keys: KEYS of the script.
        args: ARGV of the script.

    Raises:
        StoreError: The store did not reply, or replied with an error.
    """
    call = ("EVALSHA", _EXCHANGE_REPORTS.sha, len(keys), *keys, *args)
    try:
        async with asyncio.timeout(timeouts.opening):
            try:
                reply: Any = await execute(keys[0], *call)
            except NoScriptError:
                await execute(keys[0], "SCRIPT", "LOAD", _EXCHANGE_REPORTS.text)
                reply = await execute(keys[0], *call)
        now_us, bounds, *fields = reply
        pairs = zip(fields[::2], fields[1::2], strict=True)
        reports = {name.decode(): _parse_report(text) for name, text in pairs}
        return AuditReply(int(now_us), bounds.decode(), reports)
    except Exception as error:
        raise to_store_error(error) from error


def _parse_report(text: bytes) -> StoredReport:
    store_reported_at_us, _, report = text.decode().partition(":")
    return StoredReport(int(store_reported_at_us), report)


_ACQUIRE = load_script("acquire", batchable=True)
_ADJUST, _DELETE = load_script("adjust"), load_script("delete")
_HEARTBEAT = load_script("heartbeat")
_SCRIPTS = _ACQUIRE, _ADJUST, _DELETE, _HEARTBEAT, _EXCHANGE_REPORTS


class RedisStore:
    """Store shared by all replicas.

    Args:
        url: URL of the store; see `create_client`.
        keys: Names of the keys of heartbeat and audit.
        timeouts: Timeouts of store calls.
        credentials: Credentials apart from the URL's.
        now_us: Clock of buckets in place of the server's, for tests, in microseconds since any
            instant; all replicas must share it.
        on_pipeline_sent: Callback with the number of calls of each pipeline.
        tracer: Starts the spans of store calls; None for OpenTelemetry's global tracer.

    Raises:
        ConfigError: The URL or the credentials are invalid.
    """

    shared = True

    def __init__(
        self,
        url: str,
        keys: KeyScheme,
        *,
        timeouts: Timeouts | None = None,
        credentials: Credentials | None = None,
        now_us: Callable[[], int] | None = None,
        on_pipeline_sent: Callable[[int], None] | None = None,
        tracer: trace.Tracer | None = None,
    ) -> None:
        self.location = redacted_url(url)
        self._keys = keys
        self._own_loop = OwnLoop()
        self._own_loop.on_ended = self._reset
        self._timeouts = timeouts or Timeouts()
        self.client = create_client(url, self._timeouts, credentials)
        self._batcher: CommandBatcher | ClusterBatchers
        self._slot_of: Callable[[str], int] | None = None
        self._execute: Execute
        self._close_pooled: Callable[[], Awaitable[None]] | None = None
        if isinstance(self.client, redis.asyncio.RedisCluster):
            self._slot_of = slot_of
            self._batcher = ClusterBatchers(
                self.client,
                self._timeouts,
                self._own_loop,
                _SCRIPTS,
                on_pipeline_sent=on_pipeline_sent,
                tracer=tracer,
            )
            self._execute = self._batcher.execute
        else:
            self._execute = self._execute_on_server
            pool = self.client.connection_pool
            self._close_pooled = partial(close_idle, pool)
            self._batcher = CommandBatcher(
                ConnectionHolder(pool.make_connection),
                self.client,
                self._timeouts,
                self._own_loop,
                on_pipeline_sent=on_pipeline_sent,
                relocate=self._close_pooled,
                tracer=tracer,
            )
        self._test_clock = BucketClock(now_us) if now_us else None
        self._windows = CalendarWindows(self._test_clock.now_us if self._test_clock else None)
        self._now_us = self._test_clock.now_us if self._test_clock else lambda: 0

    @property
    def topology(self) -> ClusterBatchers | None:
        """Servers of a Cluster; None if one server has all keys."""
        return self._batcher if isinstance(self._batcher, ClusterBatchers) else None

    async def open(self, node: str = ONE_NODE) -> None:
        """Connect, and load the scripts.

        Args:
            node: Primary of a Cluster; `ONE_NODE` reads the Cluster's topology.

        Raises:
            StoreError: The store is unavailable, or rejects the connection.
            ConfigError: Another event loop, which is running, uses this store.
        """
        self._own_loop.require()
        try:
            async with asyncio.timeout(self._timeouts.opening):
                if self._close_pooled is not None:
                    # Pooled connections that a restarted server has closed would fail a command.
                    await self._close_pooled()
                if isinstance(self._batcher, ClusterBatchers):
                    await self._batcher.open(node)
                else:
                    await self._batcher.open(*_SCRIPTS)
        except Exception as error:
            raise to_store_error(error) from error

    async def _execute_on_server(self, _key: str, *command: Any) -> Any:
        return await self.client.execute_command(*command)

    def _reset(self, ended: asyncio.AbstractEventLoop) -> None:
        """Drop what belongs to an event loop that has ended, also the pooled connections."""
        self._batcher.reset(ended)
        if not isinstance(self.client, redis.asyncio.RedisCluster):
            self.client.connection_pool.reset()  # type: ignore[no-untyped-call]  # untyped driver

    async def aclose(self) -> None:
        """Close connections.

        Raises:
            ConfigError: Another event loop, which is running, uses this store.
        """
        self._own_loop.require()
        await self._batcher.aclose()
        await self.client.aclose()

    def _by_slot(self, keys: Iterable[str]) -> list[SlotIndices]:
        """Return the indices of keys, by Cluster slot; without a Cluster all share one."""
        slots: dict[int, SlotIndices] = {}
        for index, key in enumerate(keys):
            slots.setdefault(self._slot_of(key) if self._slot_of else 0, []).append(index)
        return [*slots.values()]

    def acquire(
        self, charges: Sequence[Charge], *, dry_run: bool = False
    ) -> Awaitable[AcquireResult]:
        """Acquire all charges together: in one script call, or in a Cluster one for each slot."""
        if self._slot_of is not None:
            slots = self._by_slot(map(_KEY, charges))
            if len(slots) > 1:
                return acquire_across_slots(self, charges, slots, dry_run=dry_run)
        return self.acquire_in_slot(charges, dry_run=dry_run)

    def acquire_in_slot(
        self, charges: Sequence[Charge], *, dry_run: bool, is_repeated: bool = False
    ) -> Awaitable[AcquireResult]:
        """Acquire charges whose buckets share a Cluster slot."""
        keys, encoded, has_calendar = encode_charges(charges, self._windows, dry_run=dry_run)
        decode = decode_single if len(keys) == 1 else partial(decode_acquired, len(keys))
        call = self._batcher.call(_ACQUIRE, keys, [self._now_us(), *encoded], decode)
        if not has_calendar or is_repeated:
            return call
        return self._repeat_by_server_time(call, charges, dry_run=dry_run)

    async def _repeat_by_server_time(
        self, call: Awaitable[AcquireResult], charges: Sequence[Charge], *, dry_run: bool
    ) -> AcquireResult:
        """Await a call, and repeat it if the server's time was outside its calendar windows."""
        try:
            return await call
        except StoreError as error:
            if not self._windows.correct(error):
                raise
        # Nothing was spent. The boundaries are now around the server's time.
        return await self.acquire_in_slot(charges, dry_run=dry_run, is_repeated=True)

    async def adjust(self, adjustments: Sequence[Adjustment]) -> Sequence[int]:
        """Adjust charges that were spent, and return the store's time of each adjustment.

        Raises:
            AdjustFailed: Some of the buckets, or some slots of a Cluster, failed.
            StoreError: The store is unavailable.
        """
        slots = [
            [adjustments[index] for index in slot] for slot in self._by_slot(map(_KEY, adjustments))
        ]
        outcomes = await asyncio.gather(*map(self._adjust_in_slot, slots), return_exceptions=True)
        store_adjusted_at_us: dict[str, int] = {}
        errors: dict[str, StoreError] = {}
        for in_slot, outcome in zip(slots, outcomes, strict=True):
            if isinstance(outcome, StoreError) and len(slots) > 1:
                errors |= {each.key: outcome for each in in_slot}
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                adjusted, failed = outcome
                errors |= failed
                store_adjusted_at_us |= adjusted
        if errors:
            raise AdjustFailed(errors, store_adjusted_at_us)
        return [store_adjusted_at_us[each.key] for each in adjustments]

    async def renew(self, leases: Sequence[Charge]) -> None:
        """Renew leases, and hold expired ones again."""
        # `adjust.lua` renews the units that stay held: with a delta of 0, all units of the lease.
        await self.adjust([lease.adjustment(0, 0) for lease in leases])

    async def _adjust_in_slot(
        self, adjustments: Sequence[Adjustment]
    ) -> tuple[dict[str, int], dict[str, StoreError]]:
        """Adjust charges of one slot, in one call after the other.

        Returns:
            The store's time of each adjusted bucket, and the errors of the others.

        Raises:
            StoreError: The first call failed.
        """
        adjusted: dict[str, int] = {}
        failed: dict[str, StoreError] = {}
        for start in range(0, len(adjustments), MAX_ADJUSTMENTS):
            batch = adjustments[start : start + MAX_ADJUSTMENTS]
            try:
                now_us, failed_now = await self._adjust_together(batch)
            except StoreError as error:
                if not start:
                    raise
                failed |= {each.key: error for each in adjustments[start:]}
                break
            adjusted |= {each.key: now_us for each in batch if each.key not in failed_now}
            failed |= failed_now
        return adjusted, failed

    async def _adjust_together(
        self, adjustments: Sequence[Adjustment]
    ) -> tuple[int, dict[str, StoreError]]:
        """Adjust charges in one call; return the store's time and the errors of single buckets."""
        now_us, failed = await self._call_adjust(adjustments)
        outside = {key for key, error in failed.items() if self._windows.correct(error)}
        if outside:
            # Their buckets are as they were. The boundaries are now around the server's time.
            again = [each for each in adjustments if each.key in outside]
            _, failed_again = await self._call_adjust(again)
            failed = {key: failed[key] for key in failed.keys() - outside} | failed_again
        return now_us, failed

    async def _call_adjust(
        self, adjustments: Sequence[Adjustment]
    ) -> tuple[int, dict[str, StoreError]]:
        args = [self._now_us(), *encode_adjustments(adjustments, self._windows)]
        keys = [each.key for each in adjustments]
        return await self._batcher.call(_ADJUST, keys, args, partial(decode_adjusted, keys))

    async def delete(self, keys: Sequence[str]) -> int:
        """Delete buckets and return how many existed.

        Raises:
            StoreError: The store is unavailable.
            ConfigError: Another event loop, which is running, uses this store.
        """
        counts = await asyncio.gather(
            *(
                self._batcher.call(
                    _DELETE, [keys[index] for index in slot], [self._now_us()], decode_count
                )
                for slot in self._by_slot(keys)
            )
        )
        if self._test_clock is not None:
            self._test_clock.on_reset()
        return sum(counts)

    async def heartbeat(self, replica: str, ttl_us: int) -> HeartbeatReply:
        """Announce a replica for `ttl_us` microseconds, or remove it with 0; count live ones."""
        keys = [self._keys.replicas_key, self._keys.epoch_key, self._keys.secrets_key]
        args = [self._now_us(), replica, ttl_us, secrets.token_hex(8), self._keys.fingerprint]
        return await self._batcher.call(_HEARTBEAT, keys, args, decode_heartbeat)

    async def key_secrets(self) -> frozenset[str]:
        """Return the fingerprints of the key secrets that replicas use."""
        self._own_loop.require()
        try:
            async with asyncio.timeout(self._timeouts.opening):
                key = self._keys.secrets_key
                return decode_fingerprints(await self._execute(key, "ZRANGE", key, 0, -1))
        except Exception as error:
            raise to_store_error(error) from error

    async def exchange_reports(
        self, replica: str, report: str, bounds: str, ttl_us: int, *, last: bool = False
    ) -> AuditReply:
        """Store a replica's report, and return all reports to the first replica by name."""
        self._own_loop.require()
        keys = [self._keys.reports_key, self._keys.auditors_key]
        args = [self._now_us(), replica, report, bounds, ttl_us, int(last)]
        return await _exchange_reports(self._execute, self._timeouts, keys, args)
