"""Redis Cluster: its topology, and one batcher for each node."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from opentelemetry import trace
from redis.asyncio import RedisCluster
from redis.asyncio.cluster import ClusterNode, PipelineCommand
from redis.cluster import PRIMARY, get_node_name
from redis.crc import REDIS_CLUSTER_HASH_SLOTS as SLOTS
from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    InvalidResponse,
    MovedError,
    NoScriptError,
    RedisClusterException,
    SlotNotCoveredError,
)

from fleetlimit.limiter.own_loop import OwnLoop
from fleetlimit.limiter.ports import ONE_NODE
from fleetlimit.stores.redis.batcher import CommandBatcher
from fleetlimit.stores.redis.client import Timeouts, close_idle
from fleetlimit.stores.redis.connection import ConnectionHolder
from fleetlimit.stores.redis.errors import timeout_error, to_store_error
from fleetlimit.stores.redis.scripts import Script

Result = TypeVar("Result")

MAX_PORT: Final = 65_535
MAX_ASKED_NODES = 8
"""Known nodes that are asked for the topology beside the URL's nodes: in a large Cluster with a
failed node, every replica asks."""


def slot_of(key: str) -> int:
    """Return the Cluster slot of a key."""
    return key_slot(key.encode())


_NO_PRIMARY: Final = "the Cluster has slots without a primary"


class ClusterBatchers:
    """Topology of a Cluster, and the batchers of its primaries.

    redis-py maps slots to nodes. The topology is read again after a node failed (`_relocate`), also
    from the addresses in the URL: a Cluster whose nodes all have new addresses is found again.
    Calls use the last one meanwhile: the search for the nodes may wait for a lost one, which the
    callers of the other nodes must not. For the same reason no command goes through redis-py's
    client: it reads a table of commands from its default node first, and no command succeeds while
    that node is lost.

    Args:
        client: redis-py's client of the Cluster.
        timeouts: Timeouts of calls.
        own_loop: Event loop of the store, which has checked it before it calls any other method
            than `call`. The store calls `reset` when another one replaces it.
        scripts: Scripts to load on every primary.
        on_pipeline_sent: Callback with the number of calls of each pipeline.
        tracer: See `CommandBatcher`.
    """

    def __init__(
        self,
        client: RedisCluster,
        timeouts: Timeouts,
        own_loop: OwnLoop,
        scripts: Sequence[Script],
        *,
        on_pipeline_sent: Callable[[int], None] | None,
        tracer: trace.Tracer | None,
    ) -> None:
        self._client = client
        self._timeouts = timeouts
        self._own_loop = own_loop
        self._scripts = scripts
        self._new = partial(
            CommandBatcher,
            client=self,
            timeouts=timeouts,
            own_loop=own_loop,
            on_pipeline_sent=on_pipeline_sent,
            slot_of=slot_of,
            relocate=self._relocate,
            tracer=tracer,
        )
        self._batchers: dict[str, CommandBatcher] = {}
        self._seeds = dict(client.nodes_manager.startup_nodes)
        self._relocation: asyncio.Task[None] | None = None

    @property
    def nodes(self) -> set[str]:
        """Addresses of the primaries."""
        return {node.name for node in self._client.get_primaries()}

    def node_of(self, key: str) -> str:
        """Return the address of the primary of a key; `ONE_NODE` if it is not known."""
        node = self._primary_of(key)
        return ONE_NODE if node is None else node.name

    def _primary_of(self, key: str) -> ClusterNode | None:
        nodes = self._client.nodes_manager.slots_cache.get(slot_of(key))
        return nodes[0] if nodes else None

    def reset(self, ended: asyncio.AbstractEventLoop) -> None:
        """Drop what belongs to an event loop that has ended, also the pooled connections.

        Args:
            ended: The event loop.
        """
        manager = self._client.nodes_manager
        for nodes in (self._seeds, manager.startup_nodes, manager.nodes_cache):
            for node in nodes.values():
                # redis-py has no public method that does not close them.
                node._connections.clear()  # noqa: SLF001
                node._free.clear()  # noqa: SLF001
        for batcher in self._batchers.values():
            batcher.reset(ended)

    async def open(self, node: str) -> None:
        """Read the topology, or connect to a primary and load the scripts there.

        Args:
            node: Address of the primary; `ONE_NODE` to read the topology.

        Raises:
            RedisError: No node replies, or the primary does not accept the connection or a script.
            SlotNotCoveredError: For `ONE_NODE`, if some slots have no primary.
        """
        if node == ONE_NODE:
            await self._relocate()
            if len(self._client.nodes_manager.slots_cache) < SLOTS:
                raise SlotNotCoveredError(_NO_PRIMARY)
            return
        for primary in self._client.get_primaries():
            if primary.name == node:
                try:
                    # Pooled connections that a restarted server has closed would fail a command.
                    await close_idle(primary)
                    await self._batcher_of(primary).open(*self._scripts)
                except BaseException:
                    # A replica may have replaced it. The search is not awaited: it may take longer
                    # than this call may, if other nodes are lost too.
                    self._start_relocation()
                    raise

    async def _relocate(self) -> None:
        """Read the topology. Concurrent calls share one search, which outlives their timeouts."""
        await asyncio.shield(self._start_relocation())

    def _start_relocation(self) -> asyncio.Task[None]:
        relocation = self._relocation
        loop = asyncio.get_running_loop()
        if relocation is None or relocation.done() or relocation.get_loop() is not loop:
            relocation = self._relocation = loop.create_task(self._read_topology())
            # Marks an error as retrieved, for which every caller may have stopped waiting.
            relocation.add_done_callback(lambda task: task.cancelled() or task.exception())
        return relocation

    async def _read_topology(self) -> None:
        await self._choose_startup_nodes()
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
        # redis-py asks the first one again. The order is random: otherwise a server whose second
        # reply is malformed could fail every search.
        names = random.sample([*asked], len(asked))
        errors: list[Exception | None] = []
        for _ in range(2):
            errors = await asyncio.gather(*(self._ask(asked[name]) for name in names))
            answering = {
                name: asked[name]
                for name, error in zip(names, errors, strict=True)
                if error is None
            }
            if answering:
                manager.startup_nodes = answering
                return
            # The first connections may be ones that the servers have closed since.
        reason = errors[-1]
        raise RedisClusterException(
            f"no server of the Cluster replied with its slots: {reason}"
        ) from reason

    async def _ask(self, node: ClusterNode) -> Exception | None:
        """Return the error of a node that does not state the slots within the connect timeout."""
        try:
            async with asyncio.timeout(self._timeouts.connect):
                _check_topology(await node.execute_command("CLUSTER SLOTS"))
        except TimeoutError:
            return timeout_error(self._timeouts.connect)
        except Exception as error:  # noqa: BLE001 - redis-py raises anything for a malformed reply
            return error
        return None

    def call(
        self, script: Script, keys: list[str], args: list[Any], decode: Callable[[Any], Result]
    ) -> Awaitable[Result]:
        """Run a script on the node that serves the slot of its keys."""
        node = self._primary_of(keys[0])
        if node is None:
            return self._find_and_call(script, keys, args, decode)
        return self._batcher_of(node).call(script, keys, args, decode)

    async def _find_and_call(
        self, script: Script, keys: list[str], args: list[Any], decode: Callable[[Any], Result]
    ) -> Result:
        self._own_loop.require()
        try:
            async with asyncio.timeout(self._timeouts.connect):
                await self._relocate()
        except Exception as error:
            raise to_store_error(error) from error
        node = self._primary_of(keys[0])
        if node is None:
            raise to_store_error(SlotNotCoveredError(_NO_PRIMARY))
        return await self._batcher_of(node).call(script, keys, args, decode)

    async def execute_command(self, *command: Any) -> Any:
        """Run an EVALSHA on the node of its first key, and follow redirections."""
        return await self.execute(command[3], *command)

    async def execute(self, key: str, *command: Any) -> Any:
        """Run a command on the node of a key, outside the batcher, and follow one redirection.

        Args:
            key: A key of the command.
            command: The command and its arguments.

        Raises:
            RedisError: The node does not reply, or replies with an error.
        """
        node = self._primary_of(key)
        if node is None:
            await self._relocate()
            node = self._primary_of(key)
        if node is None:
            raise SlotNotCoveredError(_NO_PRIMARY)
        try:
            return await self._send(node, command)
        except AskError as error:
            redirection = error
        target = await self._target_of(redirection, node)
        asking = not isinstance(redirection, MovedError)
        if not asking:
            self._client.nodes_manager.slots_cache[slot_of(key)] = [target]
        return await self._send(target, command, asking=asking)

    async def _send(
        self, node: ClusterNode, command: Sequence[Any], *, asking: bool = False
    ) -> Any:
        try:
            return await _send(node, command, asking=asking)
        except NoScriptError:
            # The node is new in the Cluster, or has lost its scripts.
            await self._batcher_of(node).open(*self._scripts)
            return await _send(node, command, asking=asking)

    async def _target_of(self, redirection: AskError, node: ClusterNode) -> ClusterNode:
        """Return the node that a reply redirects to. An empty host is the one of the reply."""
        address = get_node_name(redirection.host or node.host, redirection.port)
        target = self._client.get_node(node_name=address)
        if target is None or target.server_type != PRIMARY:
            await self._relocate()
            target = self._client.get_node(node_name=address)
        if target is None:
            raise redirection
        return target

    def _batcher_of(self, node: ClusterNode) -> CommandBatcher:
        batcher = self._batchers.get(node.name)
        if batcher is None:
            holder = ConnectionHolder(partial(node.connection_class, **node.connection_kwargs))
            batcher = self._batchers[node.name] = self._new(holder)
        return batcher

    async def aclose(self) -> None:
        """Close all batchers and the connections that read the topology."""
        await asyncio.gather(*(batcher.aclose() for batcher in self._batchers.values()))
        relocation = self._relocation
        if relocation is not None and relocation.get_loop() is asyncio.get_running_loop():
            relocation.cancel()
            await asyncio.wait({relocation})
        await asyncio.gather(*(node.disconnect() for node in self._seeds.values()))
        # redis-py closes them only if one of its own commands has read the topology.
        for attribute in ("nodes_cache", "startup_nodes"):
            await self._client.nodes_manager.aclose(attribute)


def _check_topology(reply: Any) -> None:
    """Check that redis-py can read a reply to CLUSTER SLOTS, and that it has a slot.

    redis-py would count up to any last slot, and an error of its parser would end the search.

    Raises:
        InvalidResponse: There is no slot, or a number or an address is out of range.
        TypeError: A part of the reply has another type.
        ValueError: A part of the reply is missing.
    """
    if not reply:
        raise InvalidResponse("the server knows no slots")
    for first, last, primary, *replicas in reply:
        if not 0 <= first <= last < SLOTS:
            raise InvalidResponse(f"no slots: {first!r:.20} to {last!r:.20}")
        for host, port, *_ in (primary, *replicas):
            if not isinstance(host, bytes) or not 0 <= port <= MAX_PORT:
                raise InvalidResponse(f"no address: {host!r:.100} {port!r:.20}")


async def _send(node: ClusterNode, command: Sequence[Any], *, asking: bool) -> Any:
    if not asking:
        return await node.execute_command(*command)
    # ASKING applies to the next command of its connection, so one connection sends both.
    commands = [PipelineCommand(0, "ASKING"), PipelineCommand(1, *command)]
    await node.execute_pipeline(commands)
    for each in commands:
        if isinstance(each.result, Exception):
            raise each.result
    return commands[-1].result
