"""What the limiter needs from outside: a store, a clock, identities and somebody to tell."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from fleetlimit.core.charge import Charge, Settlement
from fleetlimit.core.decision import Decision, Verdict

Sleep = Callable[[float], Awaitable[None]]
"""A pause of so many seconds."""


class Taken(NamedTuple):
    """A store's answer: its own time in microseconds, and one verdict for each charge, in order.

    Args:
        now_us: The store's time at which it decided.
        verdicts: One verdict for each charge.
        spent: Whether the charges of group 0 were spent.
        times_us: When each charge was decided, where several servers did; empty otherwise.
        sliced: Whether the charges are of a slice, which was spent as a whole at that time.
    """

    now_us: int
    verdicts: tuple[Verdict, ...]
    spent: bool
    times_us: tuple[int, ...] = ()
    sliced: bool = False

    def at_us(self, place: int) -> int:
        """Return when a charge was decided, on the clock of the server that did."""
        return self.times_us[place] if self.times_us else self.now_us


@dataclass(frozen=True, slots=True)
class Pulse:
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
class Posted:
    """What a replica learns when it makes its statement for the audit.

    Args:
        now_us: The store's time.
        word: What the replica that compares wants all to know.
        statements: Every replica's last statement and its time, for the one that is to compare
            them; nothing for the others.
    """

    now_us: int
    word: str
    statements: Mapping[str, tuple[int, str]]


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

    def take(self, charges: Sequence[Charge], *, commit: bool = True) -> Awaitable[Taken]:
        """Decide all charges together on the store's clock, and spend them when they fit.

        Args:
            charges: What is asked of each bucket.
            commit: Whether to spend.
        """
        ...

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[int]:
        """Correct charges that were spent, and return the store's time at which each was."""
        ...

    async def forget(self, keys: Sequence[str]) -> int:
        """Delete buckets and return how many there were."""
        ...

    async def heartbeat(self, replica: str, ttl_us: int) -> Pulse:
        """Announce a replica for `ttl_us` microseconds and learn how many there are."""
        ...

    async def audit(
        self, replica: str, statement: str, word: str, ttl_us: int, *, last: bool = False
    ) -> Posted:
        """Keep a replica's statement, and hand all of them to the first replica by name.

        Args:
            replica: Its name.
            statement: What it let in.
            word: What all are to know, from the one that compares; empty from the others.
            ttl_us: How long the statement is kept, in microseconds.
            last: Whether the replica makes no other one, and does not compare any more.
        """
        ...

    async def aclose(self) -> None:
        """Close connections; the store is not used afterwards."""
        ...


class Clock(Protocol):
    """The process's own time, for timeouts and caches; buckets use the store's clock."""

    def now_us(self) -> int:
        """Return monotonic microseconds."""
        ...


class CheckSpan(Protocol):
    """The trace of one check."""

    def decided(self, decision: Decision) -> None:
        """Say what was decided."""
        ...


class Tracer(Protocol):
    """Traces checks, so that the store's calls appear within them."""

    def follows(self) -> bool:
        """Tell whether a check that begins here is traced."""
        ...

    def check(self, policies: Sequence[str]) -> AbstractContextManager[CheckSpan]:
        """Open the span of one check over the policies of these names."""
        ...
