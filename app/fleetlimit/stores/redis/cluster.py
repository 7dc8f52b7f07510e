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
from functools import partial
from typing import Any, Protocol, TypeVar

from opentelemetry import trace
from redis.asyncio import RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.crc import key_slot

from fleetlimit.core.charge import Charge, Settlement
from fleetlimit.core.decision import Verdict
from fleetlimit.errors import StoreError
from fleetlimit.limiter.ports import Taken
from fleetlimit.stores.redis.batcher import Lane
from fleetlimit.stores.redis.client import Timeouts
from fleetlimit.stores.redis.connection import Wire
from fleetlimit.stores.redis.errors import translate
from fleetlimit.stores.redis.scripts import Script

Result = TypeVar("Result")

Part = list[int]
"""Places of the charges that live in one slot."""


def slot_of(key: str) -> int:
    """Return the Cluster slot of a key."""
    return key_slot(key.encode())


class ClusterLanes:
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
            Lane,
            client=client,
            timeouts=timeouts,
            sent=sent,
            place=slot_of,
            relocate=self._relocate,
            tracer=tracer,
        )
        self._lanes: dict[str, Lane] = {}

    async def open(self) -> None:
        """Read the topology and connect to every primary.

        Raises:
            RedisError: No node replies, or a primary does not accept the connection.
        """
        await self._relocate()
        await asyncio.gather(*(self._lane(node).open() for node in self._client.get_primaries()))

    async def _relocate(self) -> None:
        await self._client.initialize()
        await self._client.nodes_manager.initialize()
        gone = self._lanes.keys() - {node.name for node in self._client.get_nodes()}
        await asyncio.gather(*(self._lanes.pop(name).aclose() for name in gone))

    async def call(
        self, script: Script, keys: list[str], args: list[Any], read: Callable[[Any], Result]
    ) -> Result:
        """Run a script on the node that serves the slot of its keys."""
        try:
            async with asyncio.timeout(self._timeouts.connect):
                await self._client.initialize()
            node = self._client.nodes_manager.get_node_from_slot(slot_of(keys[0]))
        except Exception as error:
            raise translate(error) from error
        return await self._lane(node).call(script, keys, args, read)

    def _lane(self, node: ClusterNode) -> Lane:
        lane = self._lanes.get(node.name)
        if lane is None:
            wire = Wire(partial(node.connection_class, **node.connection_kwargs))
            lane = self._lanes[node.name] = self._new(wire)
        return lane

    async def aclose(self) -> None:
        """Wait for what is in flight, and close the connections."""
        await asyncio.gather(*(lane.aclose() for lane in self._lanes.values()))


class SlotStore(Protocol):
    """What a store of several slots offers for each of them."""

    def take_together(self, charges: Sequence[Charge], *, commit: bool) -> Awaitable[Taken]:
        """Decide charges of one slot."""
        ...

    async def settle(self, settlements: Sequence[Settlement]) -> object:
        """Correct charges that were spent."""
        ...


async def take_apart(
    store: SlotStore, charges: Sequence[Charge], parts: Sequence[Part], *, commit: bool
) -> Taken:
    """Decide charges of several slots together.

    Raises:
        StoreError: A slot did not answer; what the others had spent is given back.
    """
    looks = await asyncio.gather(*(_take(store, charges, part, commit=False) for part in parts))
    looked = _joined(charges, parts, looks)
    doomed = _broken(charges, looked.verdicts)
    if not commit or 0 in doomed:
        return looked
    # A shadow group spread over slots is judged by the look, and then spent with the rest.
    kept = [[place for place in part if charges[place].group not in doomed] for part in parts]
    kept = [part for part in kept if part]
    if not kept:
        return looked._replace(spent=True)
    answers = await asyncio.gather(
        *(_take(store, charges, part, commit=True) for part in kept), return_exceptions=True
    )
    taken = [answer for answer in answers if isinstance(answer, Taken)]
    failures = [answer for answer in answers if isinstance(answer, BaseException)]
    if not failures and all(each.spent for each in taken):
        return _joined(charges, kept, taken, base=looked)
    await _give_back(store, charges, kept, answers)
    for failure in failures:
        raise failure
    # Where units were given back, the look tells better how the bucket stands.
    late = [place for place, each in enumerate(taken) if not each.spent]
    return _joined(charges, [kept[i] for i in late], [taken[i] for i in late], base=looked)


async def _take(store: SlotStore, charges: Sequence[Charge], part: Part, *, commit: bool) -> Taken:
    return await store.take_together([charges[place] for place in part], commit=commit)


def _broken(charges: Sequence[Charge], verdicts: Sequence[Verdict]) -> set[int]:
    """Return the groups that do not fit as a whole."""
    pairs = zip(charges, verdicts, strict=True)
    return {charge.group for charge, verdict in pairs if not verdict.fits}


async def _give_back(
    store: SlotStore,
    charges: Sequence[Charge],
    parts: Sequence[Part],
    answers: Sequence[Taken | BaseException],
) -> None:
    settlements = []
    for part, answer in zip(parts, answers, strict=True):
        if isinstance(answer, Taken) and answer.spent:
            ours = [charges[place] for place in part]
            broken = _broken(ours, answer.verdicts)
            settlements += [
                each.correction(-each.units, answer.now_us)
                for each in ours
                if each.group not in broken
            ]
    # Where the store goes away in between, what is not given back expires with its bucket.
    with contextlib.suppress(StoreError):
        await store.settle(settlements)


def _joined(
    charges: Sequence[Charge],
    parts: Sequence[Part],
    answers: Sequence[Taken],
    base: Taken | None = None,
) -> Taken:
    """Put the answers of several slots in the order of the charges; `base` fills the rest."""
    verdicts = dict(enumerate(base.verdicts)) if base else {}
    times_us = dict(enumerate(base.times_us)) if base else {}
    for part, answer in zip(parts, answers, strict=True):
        verdicts.update(zip(part, answer.verdicts, strict=True))
        times_us.update(dict.fromkeys(part, answer.now_us))
    return Taken(
        max(answer.now_us for answer in answers),
        tuple(verdicts[place] for place in range(len(charges))),
        all(answer.spent for answer in answers),
        tuple(times_us[place] for place in range(len(charges))),
    )
