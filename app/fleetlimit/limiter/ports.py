"""What the limiter needs from outside: a store, a clock, identities and somebody to tell."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from fleetlimit.core.charge import Adjustment, Charge
from fleetlimit.core.decision import BucketStatus, Decision

Sleep = Callable[[float], Awaitable[None]]
"""A pause of so many seconds."""


class AcquireResult(NamedTuple):
    """A store's answer: its own time in microseconds, and one verdict for each charge, in order.

    Args:
        store_now_us: The store's time at which it decided.
        statuses: One verdict for each charge.
        spent: Whether the charges of group 0 were spent.
        acquired_at_us_by_charge: When each charge was decided, if several servers did; else empty.
        prefetched: Whether the charges are of a slice, which was spent as a whole at that time.
    """

    store_now_us: int
    statuses: tuple[BucketStatus, ...]
    spent: bool
    acquired_at_us_by_charge: tuple[int, ...] = ()
    prefetched: bool = False

    def acquired_at_us(self, index: int) -> int:
        """Return when a charge was decided, on the clock of the server that did."""
        return (
            self.acquired_at_us_by_charge[index]
            if self.acquired_at_us_by_charge
            else self.store_now_us
        )


@dataclass(frozen=True, slots=True)
class HeartbeatReply:
    """What a heartbeat learns from the store.

    Args:
        replicas: Replicas that announced themselves within their time to live, this one included.
        epoch: A random mark that changes when the store has lost its state.
        server: The server's own name for its run; empty where it does not say.
    """

    replicas: int
    epoch: str
    server: str = ""


@dataclass(frozen=True, slots=True)
class AuditReply:
    """What a replica learns when it makes its statement for the audit.

    Args:
        store_now_us: The store's time.
        bounds: What the replica that compares wants all to know.
        reports: Every replica's last statement and its time, for the one that is to compare
            them; nothing for the others.
    """

    store_now_us: int
    bounds: str
    reports: Mapping[str, tuple[int, str]]


class Store(Protocol):
    """Where buckets live. Each verb is atomic, or raises `StoreError` and says whether to retry."""

    @property
    def shared(self) -> bool:
        """Whether other processes see the same buckets."""
        ...

    @property
    def location(self) -> str:
        """Where the store is, for people: without credentials."""
        ...

    async def open(self) -> None:
        """Make the store ready for calls within the operation timeout; also used as a probe."""
        ...

    def acquire(
        self, charges: Sequence[Charge], *, commit: bool = True
    ) -> Awaitable[AcquireResult]:
        """Decide all charges together on the store's clock, and spend them when they fit.

        Args:
            charges: What is asked of each bucket.
            commit: Whether to spend.
        """
        ...

    async def adjust(self, adjustments: Sequence[Adjustment]) -> Sequence[int]:
        """Correct charges that were spent, and return the store's time at which each was."""
        ...

    async def delete(self, keys: Sequence[str]) -> int:
        """Delete buckets and return how many there were."""
        ...

    async def heartbeat(self, replica: str, ttl_us: int) -> HeartbeatReply:
        """Announce a replica for `ttl_us` microseconds and learn how many there are."""
        ...

    async def exchange_reports(
        self, replica: str, report: str, bounds: str, ttl_us: int, *, last: bool = False
    ) -> AuditReply:
        """Keep a replica's statement, and hand all of them to the first replica by name.

        Args:
            replica: Its name.
            report: What it let in.
            bounds: What all are to know, from the one that compares; empty from the others.
            ttl_us: How long the statement is kept, in microseconds.
            last: Whether the replica makes no other one, and does not compare any more.
        """
        ...

    async def aclose(self) -> None:
        """Close connections; the store is not used afterwards."""
        ...


class Clock(Protocol):
    """The process's own time, for timeouts and caches; buckets use the store's clock."""

    def monotonic_us(self) -> int:
        """Return monotonic microseconds."""
        ...


class CheckSpan(Protocol):
    """The trace of one check."""

    def set_decision(self, decision: Decision) -> None:
        """Say what was decided."""
        ...


class Tracer(Protocol):
    """Traces checks, so that the store's calls appear within them."""

    def is_sampled(self) -> bool:
        """Tell whether a check that begins here is traced."""
        ...

    def start_check(self, policies: Sequence[str]) -> AbstractContextManager[CheckSpan]:
        """Open the span of one check over the policies of these names."""
        ...
