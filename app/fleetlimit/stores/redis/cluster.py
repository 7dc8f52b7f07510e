"""Redis Cluster: one batcher for each node, and checks over several slots.

A script sees one slot only. So a check over several slots first does a dry run in each slot, and
stops if one denies. Then it acquires in each slot. If one denies now, because of a concurrent
check, the units acquired in the other slots are refunded. No bucket ever admits too much, and a
denied check spends nothing in the end. Between the two steps other replicas may see too few units,
never too many.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import compress
from typing import Any, Protocol, TypeVar

from opentelemetry import trace
from redis.asyncio import RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.crc import key_slot
from redis.exceptions import RedisError

from fleetlimit.core.charge import Adjustment, Charge
from fleetlimit.core.decision import BucketStatus
from fleetlimit.errors import StoreError
from fleetlimit.limiter.ports import AcquireResult
from fleetlimit.stores.redis.batcher import CommandBatcher
from fleetlimit.stores.redis.client import Timeouts
from fleetlimit.stores.redis.connection import ConnectionHolder
from fleetlimit.stores.redis.errors import to_store_error
from fleetlimit.stores.redis.scripts import Script

Result = TypeVar("Result")

MAX_ASKED_NODES = 8
"""Known nodes that are asked for the topology beside the URL's nodes: in a large Cluster with a
failed node, every replica asks."""

SlotIndices = list[int]
"""Indices of the charges whose buckets share a slot."""


def slot_of(key: str) -> int:
    """Return the Cluster slot of a key."""
    return key_slot(key.encode())


class ClusterBatchers:
    """Batchers of a Cluster's primaries, by node.

    redis-py maps slots to nodes. It reads the topology again after a node failed (`_relocate`), and
    it updates the topology when it follows a redirection. The addresses in the URL are asked again,
    too: a Cluster whose nodes all have new addresses is found again.

    Args:
        client: redis-py's client of the Cluster.
        timeouts: Timeouts of calls.
        on_pipeline_sent: Callback with the number of calls of each pipeline.
        tracer: See `CommandBatcher`.
    """

    def __init__(
        self,
        client: RedisCluster,
        timeouts: Timeouts,
        *,
        on_pipeline_sent: Callable[[int], None] | None,
        tracer: trace.Tracer | None,
    ) -> None:
        self._client = client
        self._timeouts = timeouts
        self._new = partial(
            CommandBatcher,
            client=client,
            timeouts=timeouts,
            on_pipeline_sent=on_pipeline_sent,
            slot_of=slot_of,
            relocate=self._relocate,
            tracer=tracer,
        )
        self._batchers: dict[str, CommandBatcher] = {}
        self._seeds = dict(client.nodes_manager.startup_nodes)

    async def open(self, *scripts: Script) -> None:
        """Read the topology, connect to every primary and load scripts there.

        Raises:
            RedisError: No node replies, or a primary does not accept the connection or a script.
        """
        await self._relocate()
        primaries = self._client.get_primaries()
        await asyncio.gather(*(self._batcher_of(node).open(*scripts) for node in primaries))

    async def _relocate(self) -> None:
        await self._choose_startup_nodes()
        await self._client.initialize()
        await self._client.nodes_manager.initialize()
        for name in self._batchers.keys() - {node.name for node in self._client.get_nodes()}:
            self._batchers.pop(name).disconnect()

    async def _choose_startup_nodes(self) -> None:
        """Make redis-py read the topology from nodes that reply.

        redis-py replaces the URL's nodes by those that it discovers, and asks them one after the
        other. With several that do not reply, the time limit ends before the first one that does.
        """
        manager = self._client.nodes_manager
        known = list(manager.startup_nodes.values())
        asked = self._seeds | {
            node.name: node for node in random.sample(known, min(len(known), MAX_ASKED_NODES))
        }
        answers = await asyncio.gather(*map(self._answers, asked.values()))
        answering = dict(compress(asked.items(), answers))
        # If none replies, redis-py raises the error of the last one.
        manager.startup_nodes = answering or asked

    async def _answers(self, node: ClusterNode) -> bool:
        """Return whether a node replies within the connect timeout."""
        try:
            async with asyncio.timeout(self._timeouts.connect):
                await node.execute_command("CLUSTER SLOTS")
        except (RedisError, OSError):
            return False
        return True

    async def call(
        self, script: Script, keys: list[str], args: list[Any], decode: Callable[[Any], Result]
    ) -> Result:
        """Run a script on the node that serves the slot of its keys."""
        try:
            async with asyncio.timeout(self._timeouts.connect):
                await self._client.initialize()
            node = self._client.nodes_manager.get_node_from_slot(slot_of(keys[0]))
        except Exception as error:
            raise to_store_error(error) from error
        return await self._batcher_of(node).call(script, keys, args, decode)

    def _batcher_of(self, node: ClusterNode) -> CommandBatcher:
        batcher = self._batchers.get(node.name)
        if batcher is None:
            holder = ConnectionHolder(partial(node.connection_class, **node.connection_kwargs))
            batcher = self._batchers[node.name] = self._new(holder)
        return batcher

    async def aclose(self) -> None:
        """Close all batchers."""
        await asyncio.gather(*(batcher.aclose() for batcher in self._batchers.values()))


class SlotStore(Protocol):
    """Operations of a store within one slot."""

    def acquire_in_slot(
        self, charges: Sequence[Charge], *, dry_run: bool
    ) -> Awaitable[AcquireResult]:
        """Acquire charges of one slot."""
        ...

    async def adjust(self, adjustments: Sequence[Adjustment]) -> object:
        """Adjust charges that were spent."""
        ...


async def acquire_across_slots(
    store: SlotStore, charges: Sequence[Charge], slots: Sequence[SlotIndices], *, dry_run: bool
) -> AcquireResult:
    """Acquire charges of several slots together.

    Args:
        store: Store that acquires within a slot.
        charges: The charges.
        slots: Indices of the charges, by slot.
        dry_run: Whether to spend nothing.

    Raises:
        StoreError: A slot did not reply; the units acquired in the other slots were refunded.
    """
    previews = await asyncio.gather(
        *(_acquire(store, charges, slot, dry_run=True) for slot in slots)
    )
    preview = _merge(charges, slots, previews)
    denied = _denied_groups(charges, preview.statuses)
    if dry_run or 0 in denied:
        return preview
    # The dry run alone decides which shadow groups are spent, because they may span slots.
    kept = [[index for index in slot if charges[index].group not in denied] for slot in slots]
    kept = [slot for slot in kept if slot]
    if not kept:
        return replace(preview, spent=True)
    outcomes = await asyncio.gather(
        *(_acquire(store, charges, slot, dry_run=False) for slot in kept), return_exceptions=True
    )
    results = [each for each in outcomes if isinstance(each, AcquireResult)]
    failures = [each for each in outcomes if isinstance(each, BaseException)]
    if not failures and all(each.spent for each in results):
        return _merge(charges, kept, results, base=preview)
    await _refund(store, charges, kept, outcomes)
    for failure in failures:
        raise failure
    # For refunded buckets, the dry run has the current status.
    unspent = [index for index, each in enumerate(results) if not each.spent]
    return _merge(charges, [kept[i] for i in unspent], [results[i] for i in unspent], base=preview)


async def _acquire(
    store: SlotStore, charges: Sequence[Charge], slot: SlotIndices, *, dry_run: bool
) -> AcquireResult:
    return await store.acquire_in_slot([charges[index] for index in slot], dry_run=dry_run)


def _denied_groups(charges: Sequence[Charge], statuses: Sequence[BucketStatus]) -> set[int]:
    """Return the groups with a denied charge."""
    pairs = zip(charges, statuses, strict=True)
    return {charge.group for charge, status in pairs if not status.allowed}


async def _refund(
    store: SlotStore,
    charges: Sequence[Charge],
    slots: Sequence[SlotIndices],
    outcomes: Sequence[AcquireResult | BaseException],
) -> None:
    adjustments = []
    for slot, outcome in zip(slots, outcomes, strict=True):
        if isinstance(outcome, AcquireResult) and outcome.spent:
            in_slot = [charges[index] for index in slot]
            denied = _denied_groups(in_slot, outcome.statuses)
            adjustments += [
                each.adjustment(-each.units, outcome.store_now_us)
                for each in in_slot
                if each.group not in denied
            ]
    # If the store fails here, the units return when their buckets refill.
    with contextlib.suppress(StoreError):
        await store.adjust(adjustments)


def _merge(
    charges: Sequence[Charge],
    slots: Sequence[SlotIndices],
    results: Sequence[AcquireResult],
    base: AcquireResult | None = None,
) -> AcquireResult:
    """Merge the results of several slots in the order of the charges; `base` has all others."""
    statuses = dict(enumerate(base.statuses)) if base else {}
    store_acquired_at_us = dict(enumerate(base.store_acquired_at_us_by_charge)) if base else {}
    for slot, result in zip(slots, results, strict=True):
        statuses.update(zip(slot, result.statuses, strict=True))
        store_acquired_at_us.update(dict.fromkeys(slot, result.store_now_us))
    return AcquireResult(
        max(result.store_now_us for result in results),
        tuple(statuses[index] for index in range(len(charges))),
        all(result.spent for result in results),
        tuple(store_acquired_at_us[index] for index in range(len(charges))),
    )
