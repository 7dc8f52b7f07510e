"""Redis Cluster: one batcher a node, and a check whose buckets live in several slots.

No script can see all buckets of such a check. First every slot only looks: when one refuses,
nothing is spent anywhere. Then every slot spends: when one refuses after all, because others spent
in between, the units spent in the other slots are refunded. So no bucket ever admits too much, and
a denied request spends nothing in the end; between the two steps other replicas may see an
allowance that is too small, never one that is too large.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, TypeVar

from opentelemetry import trace
from redis.asyncio import RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.crc import key_slot

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

SlotIndices = list[int]
"""Places of the charges that live in one slot."""


def slot_of(key: str) -> int:
    """Return the Cluster slot of a key."""
    return key_slot(key.encode())


class ClusterBatchers:
    """The batchers of a Cluster's primaries, by node.

    The driver knows which node serves a slot, and learns of moves: `relocate` reads the topology
    again after a node failed, and a redirected command is sent again by the driver.

    Args:
        client: The driver's client of the Cluster.
        timeouts: How long to wait.
        sent: Callback with the number of calls of each pipeline.
        tracer: Makes the spans of calls.
    """

    def __init__(
        self,
        client: RedisCluster,
        timeouts: Timeouts,
        *,
        sent: Callable[[int], None],
        tracer: trace.Tracer | None,
    ) -> None:
        self._client = client
        self._timeouts = timeouts
        self._new = partial(
            CommandBatcher,
            client=client,
            timeouts=timeouts,
            on_pipeline_sent=sent,
            slot_of=slot_of,
            relocate=self._relocate,
            tracer=tracer,
        )
        self._batchers: dict[str, CommandBatcher] = {}

    async def open(self) -> None:
        """Read the topology and connect to every primary.

        Raises:
            RedisError: No node replies, or a primary does not accept the connection.
        """
        await self._relocate()
        await asyncio.gather(*(self._batcher(node).open() for node in self._client.get_primaries()))

    async def _relocate(self) -> None:
        await self._client.initialize()
        await self._client.nodes_manager.initialize()
        for name in self._batchers.keys() - {node.name for node in self._client.get_nodes()}:
            self._batchers.pop(name).disconnect()

    async def call(
        self, script: Script, keys: list[str], args: list[Any], read: Callable[[Any], Result]
    ) -> Result:
        """Run a script on the node that serves the slot of its keys."""
        try:
            async with asyncio.timeout(self._timeouts.connect):
                await self._client.initialize()
            node = self._client.nodes_manager.get_node_from_slot(slot_of(keys[0]))
        except Exception as error:
            raise to_store_error(error) from error
        return await self._batcher(node).call(script, keys, args, read)

    def _batcher(self, node: ClusterNode) -> CommandBatcher:
        batcher = self._batchers.get(node.name)
        if batcher is None:
            connections = ConnectionHolder(partial(node.connection_class, **node.connection_kwargs))
            batcher = self._batchers[node.name] = self._new(connections)
        return batcher

    async def aclose(self) -> None:
        """Wait for what is in flight, and close the connections."""
        await asyncio.gather(*(each.aclose() for each in self._batchers.values()))


class SlotStore(Protocol):
    """What a store of several slots offers for each of them."""

    def acquire_in_slot(
        self, charges: Sequence[Charge], *, commit: bool
    ) -> Awaitable[AcquireResult]:
        """Decide charges of one slot."""
        ...

    async def adjust(self, adjustments: Sequence[Adjustment]) -> object:
        """Correct charges that were spent."""
        ...


async def acquire_across_slots(
    store: SlotStore, charges: Sequence[Charge], slots: Sequence[SlotIndices], *, commit: bool
) -> AcquireResult:
    """Decide charges of several slots together.

    Raises:
        StoreError: A slot did not answer; what the others had spent is given back.
    """
    looks = await asyncio.gather(*(_acquire(store, charges, part, commit=False) for part in slots))
    looked = _merge(charges, slots, looks)
    doomed = _denied_groups(charges, looked.statuses)
    if not commit or 0 in doomed:
        return looked
    # A shadow group spread over slots is judged by the look, and then spent with the rest.
    kept = [[place for place in part if charges[place].group not in doomed] for part in slots]
    kept = [part for part in kept if part]
    if not kept:
        return replace(looked, spent=True)
    answers = await asyncio.gather(
        *(_acquire(store, charges, part, commit=True) for part in kept), return_exceptions=True
    )
    taken = [answer for answer in answers if isinstance(answer, AcquireResult)]
    failures = [answer for answer in answers if isinstance(answer, BaseException)]
    if not failures and all(each.spent for each in taken):
        return _merge(charges, kept, taken, base=looked)
    await _refund(store, charges, kept, answers)
    for failure in failures:
        raise failure
    # Where units were given back, the look tells better how the bucket stands.
    late = [place for place, each in enumerate(taken) if not each.spent]
    return _merge(charges, [kept[i] for i in late], [taken[i] for i in late], base=looked)


async def _acquire(
    store: SlotStore, charges: Sequence[Charge], part: SlotIndices, *, commit: bool
) -> AcquireResult:
    return await store.acquire_in_slot([charges[place] for place in part], commit=commit)


def _denied_groups(charges: Sequence[Charge], verdicts: Sequence[BucketStatus]) -> set[int]:
    """Return the groups that do not fit as a whole."""
    pairs = zip(charges, verdicts, strict=True)
    return {charge.group for charge, verdict in pairs if not verdict.allowed}


async def _refund(
    store: SlotStore,
    charges: Sequence[Charge],
    parts: Sequence[SlotIndices],
    answers: Sequence[AcquireResult | BaseException],
) -> None:
    settlements = []
    for part, answer in zip(parts, answers, strict=True):
        if isinstance(answer, AcquireResult) and answer.spent:
            ours = [charges[place] for place in part]
            broken = _denied_groups(ours, answer.statuses)
            settlements += [
                each.adjustment(-each.units, answer.store_now_us)
                for each in ours
                if each.group not in broken
            ]
    # Where the store goes away in between, what is not given back expires with its bucket.
    with contextlib.suppress(StoreError):
        await store.adjust(settlements)


def _merge(
    charges: Sequence[Charge],
    parts: Sequence[SlotIndices],
    answers: Sequence[AcquireResult],
    base: AcquireResult | None = None,
) -> AcquireResult:
    """Put the answers of several slots in the order of the charges; `base` fills the rest."""
    verdicts = dict(enumerate(base.statuses)) if base else {}
    times_us = dict(enumerate(base.acquired_at_us_by_charge)) if base else {}
    for part, answer in zip(parts, answers, strict=True):
        verdicts.update(zip(part, answer.statuses, strict=True))
        times_us.update(dict.fromkeys(part, answer.store_now_us))
    return AcquireResult(
        max(answer.store_now_us for answer in answers),
        tuple(verdicts[place] for place in range(len(charges))),
        all(answer.spent for answer in answers),
        tuple(times_us[place] for place in range(len(charges))),
    )
