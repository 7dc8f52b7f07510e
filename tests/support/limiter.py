"""A clock, a shared store and observers that do what a test tells them to, for the limiter."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, Self, TypeVar

from fleetlimit.core.charge import Charge, Settlement
from fleetlimit.core.policy import Policy, PolicySet
from fleetlimit.core.quota import Algorithm, Quota, concurrency_quota, rate_quota
from fleetlimit.errors import StoreError, StoreUnavailable
from fleetlimit.limiter.circuit_breaker import BreakerSettings
from fleetlimit.limiter.events import Event
from fleetlimit.limiter.limiter import Limiter
from fleetlimit.limiter.ports import Posted, Pulse, Taken
from fleetlimit.stores.memory import MemoryStore

Line = TypeVar("Line")
Kind = TypeVar("Kind")
PATIENCE_SECONDS = 5.0
"""How long a test waits for what must come; only a test that fails ever waits so long."""


class MovedClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.us = 1_700_000_000_000_000

    def now_us(self) -> int:
        """Return where the clock stands."""
        return self.us

    def move(self, seconds: float) -> None:
        """Move the clock on."""
        self.us += round(seconds * 1_000_000)


class Diary(Generic[Line]):
    """Lines in the order they were written, to be read or waited for."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self._written = asyncio.Event()

    def write(self, line: Line) -> None:
        """Add a line."""
        self.lines.append(line)
        self._written.set()

    async def until(self, reads: Callable[[list[Line]], bool]) -> None:
        """Wait until the lines read so."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not reads(self.lines):
                self._written.clear()
                await self._written.wait()


class Recorder:
    """An observer that keeps what it was told."""

    def __init__(self) -> None:
        self.events: Diary[Event] = Diary()

    def observe(self, event: Event) -> None:
        """Keep the event."""
        self.events.write(event)

    def of(self, kind: type[Kind]) -> list[Kind]:
        """Return the events of one kind."""
        return [event for event in self.events.lines if isinstance(event, kind)]

    async def heard(self, event: Event) -> None:
        """Wait until an event like this one was told."""
        await self.events.until(lambda told: event in told)


class Pauses:
    """A sleep whose every pause lasts until the test ends it."""

    def __init__(self) -> None:
        self.asked: Diary[float] = Diary()
        self._ends: list[asyncio.Event] = []

    async def __call__(self, seconds: float) -> None:
        """Pause."""
        end = asyncio.Event()
        self._ends.append(end)
        self.asked.write(seconds)
        await end.wait()

    async def begun(self, count: int) -> None:
        """Wait until this many pauses have begun in all."""
        await self.asked.until(lambda asked: len(asked) >= count)

    def end(self, place: int = -1) -> None:
        """End one pause, the last by default."""
        self._ends[place].set()


def away(kind: str = "timeout") -> StoreUnavailable:
    """Return the error of a store that does not answer."""
    return StoreUnavailable("no answer", kind=kind)


@dataclass(eq=False)
class Hold:
    """One call that is held on its way.

    Args:
        late: Whether the store has done its work already, and only the answer is held.
        error: What the call ends with, if not with its answer.
    """

    late: bool = False
    error: StoreError | None = None
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait(self) -> None:
        """Wait until the call is here."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self.reached.wait()

    async def keep(self) -> None:
        """Keep the call until the test lets it go."""
        self.reached.set()
        await self.go.wait()
        if self.error is not None:
            raise self.error


class ToldStore:
    """A shared store that fails, or holds calls, as it is told."""

    shared = True
    location = "told://"

    def __init__(self, clock: MovedClock) -> None:
        self.memory = MemoryStore(clock.now_us)
        self.down: StoreError | None = None
        self.errors: dict[str, StoreError] = {}
        self.pulse = Pulse(1, "first")
        self.done: Diary[str] = Diary()
        self.calls: list[str] = []
        self.settled: list[Settlement] = []
        self.heartbeats: list[tuple[str, int]] = []
        self.closed = 0
        self._holds: dict[str, list[Hold]] = defaultdict(list)

    def hold(self, verb: str, *, late: bool = False, error: StoreError | None = None) -> Hold:
        """Hold the next call of this verb that is not held yet."""
        hold = Hold(late, error)
        self._holds[verb].append(hold)
        return hold

    def count(self, verb: str) -> int:
        """Return how often the verb was called."""
        return self.calls.count(verb)

    async def did(self, verb: str, times: int = 1) -> None:
        """Wait until the verb was done this many times."""
        await self.done.until(lambda done: done.count(verb) >= times)

    async def open(self) -> None:
        """Answer the probe."""

        async def work() -> None:
            pass

        await self._do("open", work)

    async def take(self, charges: Sequence[Charge], *, commit: bool = True) -> Taken:
        """Decide in memory."""
        taken: Taken = await self._do("take", lambda: self.memory.take(charges, commit=commit))
        return taken

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[int]:
        """Correct in memory."""
        self.settled += settlements
        times: Sequence[int] = await self._do("settle", lambda: self.memory.settle(settlements))
        return times

    async def forget(self, keys: Sequence[str]) -> int:
        """Forget in memory."""
        count: int = await self._do("forget", lambda: self.memory.forget(keys))
        return count

    async def heartbeat(self, replica: str, ttl_us: int) -> Pulse:
        """Answer with the pulse of the moment."""
        self.heartbeats.append((replica, ttl_us))

        async def work() -> Pulse:
            return self.pulse

        pulse: Pulse = await self._do("heartbeat", work)
        return pulse

    async def audit(
        self, replica: str, statement: str, word: str, ttl_us: int, *, last: bool = False
    ) -> Posted:
        """Keep a statement in memory."""
        posted: Posted = await self._do(
            "audit", lambda: self.memory.audit(replica, statement, word, ttl_us, last=last)
        )
        return posted

    async def aclose(self) -> None:
        """Close."""
        self.closed += 1

    async def _do(self, verb: str, work: Callable[[], Any]) -> Any:
        self.calls.append(verb)
        held = self._holds[verb]
        hold = held.pop(0) if held else None
        if hold is not None and not hold.late:
            await hold.keep()
        error = self.down or self.errors.get(verb)
        if error is not None:
            raise error
        answer = await work()
        if hold is not None and hold.late:
            await hold.keep()
        self.done.write(verb)
        return answer


class Bench:
    """A limiter over a told store, with all that it stands on; closed, it leaves no task behind.

    Args:
        policies: The policies in force.
        failures: Failures in a row that open the breaker.
    """

    def __init__(self, *policies: Policy, failures: int = 3) -> None:
        self.clock = MovedClock()
        self.store = ToldStore(self.clock)
        self.local = MemoryStore(self.clock.now_us)
        self.recorder = Recorder()
        self.limiter = Limiter(
            self.store,
            local=self.local,
            clock=self.clock,
            observers=[self.recorder],
            breaker=BreakerSettings(failures=failures),
            replica="me",
        )
        self.limiter.policies.replace(PolicySet(policies))
        self._before = asyncio.all_tasks()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.limiter.aclose()
        assert asyncio.all_tasks() <= self._before

    async def left(self, policy: str, principal: str = "ann") -> int:
        """Return what the first limit of a policy has left in the shared store."""
        decision = await self.limiter.peek(policy, principal=principal, cost=0)
        return remaining(decision.results[0].limits[0])


def remaining(limit: Any) -> int:
    """Return the units that a limit's verdict says are left."""
    assert limit.verdict is not None
    left: int = limit.verdict.remaining
    return left


def rate(name: str, *rates: str | Quota, **options: Any) -> Policy:
    """Return a policy of these limits."""
    limits = tuple(each if isinstance(each, Quota) else rate_quota(each) for each in rates)
    return Policy(name, limits, **options)


def window(limit: int) -> Quota:
    """Return a limit for each minute of the clock; a higher one has room at once."""
    return rate_quota(f"{limit}/minute", algorithm=Algorithm.FIXED_WINDOW)


def in_flight(name: str, limit: int, *, lease_us: int = 30_000_000, **options: Any) -> Policy:
    """Return a policy of so many requests at once."""
    return Policy(name, (concurrency_quota(limit, lease_us=lease_us),), **options)


@asynccontextmanager
async def running(work: Coroutine[Any, Any, Kind]) -> AsyncIterator["asyncio.Task[Kind]"]:
    """Run work beside the test, and end it with the block if it has not ended by itself."""
    task = asyncio.get_running_loop().create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task}, timeout=PATIENCE_SECONDS)
