"""Ports of the limiter: the store, the clock and the tracer."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Final, Protocol, runtime_checkable

from fleetlimit.core.charge import Adjustment, Charge
from fleetlimit.core.decision import Decision
from fleetlimit.errors import StoreError, StoreUnavailable
from fleetlimit.limiter.store_replies import AcquireResult, AuditReply, HeartbeatReply

Sleep = Callable[[float], Awaitable[None]]
"""Async function that pauses for a number of seconds."""

ONE_NODE: Final = ""
"""Node of a store of one server. In a Cluster, the node of keys whose server is not known."""


class KeysFailed(StoreUnavailable):
    """Some keys of a call failed, and nothing was spent from the other ones.

    Args:
        errors: Error of each failed key, at least one. Keys of one failed pipeline share the error.
    """

    def __init__(self, errors: Mapping[str, StoreError]) -> None:
        first = next(iter(errors.values()))
        super().__init__(str(first), kind=first.kind)
        self.errors = errors


class AdjustFailed(KeysFailed):
    """Some buckets were not adjusted.

    Args:
        errors: Error of each key that failed, at least one.
        store_adjusted_at_us_by_key: Store time of the adjustment of each other key.
    """

    def __init__(
        self, errors: Mapping[str, StoreError], store_adjusted_at_us_by_key: Mapping[str, int]
    ) -> None:
        super().__init__(errors)
        self.store_adjusted_at_us_by_key = store_adjusted_at_us_by_key


class Topology(Protocol):
    """Servers of a store that spreads its keys over several."""

    @property
    def nodes(self) -> Collection[str]:
        """Addresses of the servers that serve keys; empty before the first lookup."""
        ...

    def node_of(self, key: str) -> str:
        """Return the address of the server that serves a key; `ONE_NODE` if it is not known."""
        ...


class Store(Protocol):
    """Storage of buckets. Each method is atomic, or raises a `StoreError`."""

    @property
    def topology(self) -> Topology | None:
        """Servers of a Cluster; None if one server has all keys."""
        ...

    @property
    def shared(self) -> bool:
        """Whether other processes use the same buckets."""
        ...

    @property
    def location(self) -> str:
        """URL of the store without credentials, for people."""
        ...

    async def open(self, node: str = ONE_NODE) -> None:
        """Prepare for calls within the operation timeout; also the probe of the circuit breaker.

        Args:
            node: Server to prepare. In a Cluster, `ONE_NODE` finds the servers of all keys, and a
                server that has no keys any more needs no preparation.
        """
        ...

    def acquire(
        self, charges: Sequence[Charge], *, dry_run: bool = False
    ) -> Awaitable[AcquireResult]:
        """Decide all charges together at one store time, and spend them if they fit.

        Args:
            charges: Units requested of each bucket.
            dry_run: Whether to decide without spending.

        Raises:
            KeysFailed: Only some of the charges failed, in a Cluster.
        """
        ...

    async def adjust(self, adjustments: Sequence[Adjustment]) -> Sequence[int]:
        """Correct charges that were spent, and return the store time of each correction.

        Raises:
            AdjustFailed: Some of the buckets failed.
            StoreError: The store is unavailable.
        """
        ...

    async def renew(self, leases: Sequence[Charge]) -> None:
        """Let leases last for another period from now on.

        Args:
            leases: Charges of `concurrency` quotas that were spent. A lease that had expired is
                held again, even if that exceeds the limit, because its units are in use.
        """
        ...

    async def delete(self, keys: Sequence[str]) -> int:
        """Delete buckets, and return how many existed."""
        ...

    async def heartbeat(self, replica: str, ttl_us: int) -> HeartbeatReply:
        """Register a replica for `ttl_us` microseconds; 0 removes it."""
        ...

    async def key_secrets(self) -> frozenset[str]:
        """Return the fingerprints of the key secrets that replicas use, or used before they ended.

        They are empty if no replica has used the key prefix for a day.
        """
        ...

    async def exchange_reports(
        self, replica: str, report: str, bounds: str, ttl_us: int, *, last: bool = False
    ) -> AuditReply:
        """Store a replica's usage report, and return all reports to the first replica by name.

        Args:
            replica: Name of the replica.
            report: Its usage report.
            bounds: Message to all replicas from the one that compares; empty from the others.
            ttl_us: How long the report is kept, in microseconds.
            last: Whether the replica shuts down and must not be chosen to compare.
        """
        ...

    async def aclose(self) -> None:
        """Close connections; the store is not used afterwards."""
        ...


class Clock(Protocol):
    """Monotonic clock of this process.

    `Limiter` reads it for the duration of checks. The denial cache, the prefetcher, the audit and
    the rate-limited logs read it for expiry. Buckets use store time, which is another clock. Only a
    clock that a test passes to `Fleetlimit` drives the buckets too, also those of a `MemoryStore`.
    """

    def monotonic_us(self) -> int:
        """Return monotonic microseconds."""
        ...


@runtime_checkable
class SleepingClock(Protocol):
    """Clock with pauses of its own, for tests: a pause ends when the test advances the clock."""

    async def sleep(self, seconds: float) -> None:
        """Pause until the clock has advanced by this number of seconds."""
        ...


class CheckSpan(Protocol):
    """Span of one check."""

    def set_decision(self, decision: Decision) -> None:
        """Record the decision in the span."""
        ...


class Tracer(Protocol):
    """Creates spans of checks, within which the store's calls appear."""

    def is_sampled(self) -> bool:
        """Return whether a check that starts here is traced."""
        ...

    def start_check(self, policies: Sequence[str]) -> AbstractContextManager[CheckSpan]:
        """Open the span of a check under policies of these names."""
        ...
