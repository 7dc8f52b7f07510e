"""Circuit breakers for store calls: after consecutive failures calls of a server fail at once.

Each server of a Cluster has its own breaker, so that a lost shard affects no caller of the living
ones. A store of one server has one.

All calls of a pipeline that failed raise the same error object, which is one failure: a single late
pipeline does not open the breaker, however many calls are in it.

While it is open a probe runs in the background. No request ever waits for an unavailable store, and
the first request after the store's return uses it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar, TypeVarTuple

from fleetlimit.errors import BucketCorrupt, ConfigError, StoreError, StoreUnavailable
from fleetlimit.limiter.events import BreakerChanged, BreakerState, Event, StoreFailed
from fleetlimit.limiter.periodic import DONE, PeriodicTask
from fleetlimit.limiter.ports import ONE_NODE, KeysFailed, Sleep, Topology

Item = TypeVar("Item")
Result = TypeVar("Result")
Args = TypeVarTuple("Args")
CIRCUIT_OPEN: Final = "breaker_open"
"""Kind of the error of a call that was not made."""


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """Settings of the circuit breaker.

    Args:
        failures: Consecutive failures that open it.
        probe_seconds: Pause between probes while it is open.
    """

    failures: int = 3
    probe_seconds: float = 0.5

    def __post_init__(self) -> None:
        if self.failures < 1 or self.probe_seconds <= 0:
            raise ConfigError("a breaker needs at least 1 failure and a pause above 0 seconds")


class CircuitBreaker:
    """Circuit breaker of one server.

    Args:
        settings: When it opens, and how often it probes.
        probe: Async function that raises `StoreError` while the server is unavailable.
        emit: Receives events of failures and changes of state.
        node: Address of the server in a Cluster.
        sleep: Pause between probes.
    """

    def __init__(
        self,
        settings: BreakerSettings,
        probe: Callable[[], Awaitable[None]],
        emit: Callable[[Event], None],
        *,
        node: str = ONE_NODE,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.node = node
        self._max_failures = settings.failures
        self._probe = probe
        self._emit = emit
        self._failures = 0
        self._last_failure: StoreError | None = None
        # Number of times it opened: a call that started before an opening is recognised by it.
        self.generation = 0
        self._open = False
        self._closing = False
        self._probe_task = PeriodicTask(
            self._probe_once,
            settings.probe_seconds,
            failure_event="store.probe_failed",
            immediate=True,
            sleep=sleep,
        )

    @property
    def state(self) -> BreakerState:
        """State of the breaker."""
        return BreakerState.OPEN if self._open else BreakerState.CLOSED

    @property
    def last_failure_kind(self) -> str:
        """Kind of the last failure, of a call or of a probe; empty after a success."""
        return self._last_failure.kind if self._last_failure is not None else ""

    def start(self) -> None:
        """Close the breaker and count from zero, also after `aclose`."""
        self._closing = False
        self._reset_failures()
        if self._open:
            self._open = False
            self._emit(BreakerChanged(BreakerState.CLOSED, self.node))

    def _reset_failures(self) -> None:
        self._failures = 0
        self._last_failure = None

    async def call(
        self, operation: str, function: Callable[[*Args], Awaitable[Result]], *args: *Args
    ) -> Result:
        """Call the store unless the breaker is open.

        Args:
            operation: Name of the store's method, for the event of a failure.
            function: Function to call.
            args: Its arguments.

        Raises:
            StoreError: The call failed, or the breaker is open.
        """
        if self._open:
            raise self.rejection()
        generation = self.generation
        try:
            result = await function(*args)
        except KeysFailed as failed:
            # Of a check over several slots of this server: each has an error object of its own, and
            # shares those within it with the other checks of a failed pipeline.
            for each in dict.fromkeys(failed.errors.values()):
                self.on_failure(operation, each, generation)
            raise
        except StoreError as error:
            self.on_failure(operation, error, generation)
            raise
        if self._failures:
            self._reset_failures()
        return result

    def rejection(self) -> StoreUnavailable:
        """Return the error of a call that is not made, because the breaker is open."""
        if not self._closing:
            # No effect while the probe runs; its event loop may have been closed.
            self._probe_task.start()
        return StoreUnavailable("the breaker is open", kind=CIRCUIT_OPEN)

    def on_success(self) -> None:
        """Count a call that succeeded."""
        self._reset_failures()

    def on_failure(self, operation: str, error: StoreError, generation: int) -> None:
        """Count a call that failed, and emit an event.

        Args:
            operation: Name of the store's method.
            error: The error.
            generation: Generation of the breaker when the call began.
        """
        self._emit(StoreFailed(operation, error, self.node))
        # Ignored: failures of calls that began before the breaker opened, because the server may
        # have returned since; and corrupt buckets, because other buckets are unaffected.
        if generation != self.generation or isinstance(error, BucketCorrupt):
            return
        if error is self._last_failure:
            return
        self._last_failure = error
        self._failures += 1
        if self._failures >= self._max_failures and not self._closing:
            self.generation += 1
            self._open = True
            self._probe_task.start()
            self._emit(BreakerChanged(BreakerState.OPEN, self.node))

    async def _probe_once(self) -> object:
        try:
            await self._probe()
        except StoreError as error:
            self._last_failure = error
            return None
        self._reset_failures()
        self._open = False
        self._emit(BreakerChanged(BreakerState.CLOSED, self.node))
        return DONE

    async def aclose(self) -> None:
        """Stop probing, and do not open again."""
        self._closing = True
        await self._probe_task.stop()


class CircuitBreakers:
    """Circuit breakers of a store, one for each server.

    Args:
        settings: When a breaker opens, and how often it probes.
        topology: Servers of a Cluster; None for a store of one server.
        probe: Async function that raises `StoreError` while the server of this address is
            unavailable.
        emit: Receives events of failures and changes of state.
    """

    def __init__(
        self,
        settings: BreakerSettings,
        topology: Topology | None,
        probe: Callable[[str], Awaitable[None]],
        emit: Callable[[Event], None],
    ) -> None:
        self._settings = settings
        self._topology = topology
        self._probe = probe
        self._emit = emit
        self._breakers: dict[str, CircuitBreaker] = {}
        self.only = self.of_node(ONE_NODE) if topology is None else None
        """The breaker of a store of one server; None in a Cluster."""

    @property
    def open_nodes(self) -> list[str]:
        """Servers whose breaker is open, sorted."""
        breakers = self._breakers.values()
        return sorted(each.node for each in breakers if each.state is BreakerState.OPEN)

    @property
    def failure_kinds(self) -> dict[str, str]:
        """Kind of the last failure of each server whose breaker is open."""
        return {node: self._breakers[node].last_failure_kind for node in self.open_nodes}

    @property
    def state(self) -> BreakerState:
        """`open` if the breaker of any server is."""
        return BreakerState.OPEN if self.open_nodes else BreakerState.CLOSED

    def of_node(self, node: str) -> CircuitBreaker:
        """Return the breaker of a server."""
        breaker = self._breakers.get(node)
        if breaker is None:
            self._drop_removed()
            breaker = self._breakers[node] = CircuitBreaker(
                self._settings, partial(self._probe, node), self._emit, node=node
            )
        return breaker

    def _drop_removed(self) -> None:
        """Drop the closed breakers of servers that left the Cluster.

        A server that is replaced has another address. An open breaker closes first: its probe
        succeeds when its server has no keys any more.
        """
        nodes = {ONE_NODE, *self._topology.nodes} if self._topology else {ONE_NODE}
        for node, breaker in list(self._breakers.items()):
            if node not in nodes and breaker.state is BreakerState.CLOSED:
                del self._breakers[node]

    def of_key(self, key: str) -> CircuitBreaker:
        """Return the breaker of the server of a key."""
        return self.of_node(self._topology.node_of(key) if self._topology else ONE_NODE)

    def group(
        self, items: Iterable[Item], key_of: Callable[[Item], str]
    ) -> dict[CircuitBreaker, list[Item]]:
        """Return the items by the breaker of their key's server."""
        groups: dict[CircuitBreaker, list[Item]] = {}
        for item in items:
            groups.setdefault(self.only or self.of_key(key_of(item)), []).append(item)
        return groups

    async def call(
        self,
        operation: str,
        keys: Collection[str],
        function: Callable[[*Args], Awaitable[Result]],
        *args: *Args,
    ) -> Result:
        """Call the store for keys of one or several servers, unless one of the breakers is open.

        Args:
            operation: Name of the store's method, for the event of a failure.
            keys: Keys of the call.
            function: Function to call.
            args: Its arguments.

        Raises:
            KeysFailed: Some servers failed, or their breakers are open.
            StoreError: The only server of the keys failed, or its breaker is open.
        """
        breakers = {key: self.of_key(key) for key in keys}
        if len(set(breakers.values())) == 1:
            return await next(iter(breakers.values())).call(operation, function, *args)
        rejections: Mapping[str, StoreError] = {
            key: each.rejection()
            for key, each in breakers.items()
            if each.state is BreakerState.OPEN
        }
        if rejections:
            raise KeysFailed(rejections)
        generations = {each: each.generation for each in breakers.values()}
        try:
            result = await function(*args)
        except KeysFailed as failed:
            # One failure for the keys that share an error, as in a failed pipeline.
            failures = {(breakers[key], error) for key, error in failed.errors.items()}
            for breaker, error in failures:
                breaker.on_failure(operation, error, generations[breaker])
            for breaker in generations.keys() - {breaker for breaker, _ in failures}:
                breaker.on_success()
            raise
        for breaker in generations:
            breaker.on_success()
        return result

    def start(self) -> None:
        """Close the breakers and count from zero, also after `aclose`."""
        for each in self._breakers.values():
            each.start()

    async def aclose(self) -> None:
        """Stop probing, and do not open again."""
        await asyncio.gather(*(each.aclose() for each in self._breakers.values()))
