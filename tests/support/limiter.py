"""A clock, a shared store and observers that do what a test tells them to, for the limiter."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, Self, TypeVar

from fleetlimit.core.charge import Adjustment, Charge
from fleetlimit.core.policy import Policy, PolicySet
from fleetlimit.core.quota import Algorithm, Quota, concurrency_quota, rate_quota
from fleetlimit.errors import StoreError, StoreUnavailable
from fleetlimit.limiter.circuit_breaker import BreakerSettings
from fleetlimit.limiter.events import Event
from fleetlimit.limiter.limiter import Limiter
from fleetlimit.limiter.ports import AcquireResult, AuditReply, HeartbeatReply
from fleetlimit.stores.memory import MemoryStore

Line = TypeVar("Line")
Kind = TypeVar("Kind")
TIMEOUT_SECONDS = 5.0
"""How long a test waits for what must come; only a test that fails ever waits so long."""


class ManualClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.us = 1_700_000_000_000_000

    def monotonic_us(self) -> int:
        """Return where the clock stands."""
        return self.us

    def advance(self, seconds: float) -> None:
        """Move the clock on."""
        self.us += round(seconds * 1_000_000)


class Journal(Generic[Line]):
    """Lines in the order they were written, to be read or waited for."""

    def __init__(self) -> None:
        self.entries: list[Line] = []
        self._written = asyncio.Event()

    def append(self, line: Line) -> None:
        """Add a line."""
        self.entries.append(line)
        self._written.set()

    async def wait_until(self, predicate: Callable[[list[Line]], bool]) -> None:
        """Wait until the lines read so."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while not predicate(self.entries):
                self._written.clear()
                await self._written.wait()


class Recorder:
    """An observer that keeps what it was told."""

    def __init__(self) -> None:
        self.events: Journal[Event] = Journal()

    def on_event(self, event: Event) -> None:
        """Keep the event."""
        self.events.append(event)

    def of(self, kind: type[Kind]) -> list[Kind]:
        """Return the events of one kind."""
        return [event for event in self.events.entries if isinstance(event, kind)]

    async def wait_for(self, event: Event) -> None:
        """Wait until an event like this one was told."""
        await self.events.wait_until(lambda told: event in told)


class ManualSleep:
    """A sleep whose every pause lasts until the test ends it."""

    def __init__(self) -> None:
        self.requested: Journal[float] = Journal()
        self._ends: list[asyncio.Event] = []

    async def __call__(self, seconds: float) -> None:
        """Pause."""
        end = asyncio.Event()
        self._ends.append(end)
        self.requested.append(seconds)
        await end.wait()

    async def wait_for_calls(self, count: int) -> None:
        """Wait until this many pauses have begun in all."""
        await self.requested.wait_until(lambda asked: len(asked) >= count)

    def finish(self, index: int = -1) -> None:
        """End one pause, the last by default."""
        self._ends[index].set()


def timeout_error(kind: str = "timeout") -> StoreUnavailable:
    """Return the error of a store that does not answer."""
    return StoreUnavailable("no answer", kind=kind)


@dataclass(eq=False)
class HeldCall:
    """One call that is held on its way.

    Args:
        after_work: Whether the store has done its work already, and only the answer is held.
        error: What the call ends with, if not with its answer.
    """

    after_work: bool = False
    error: StoreError | None = None
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait(self) -> None:
        """Wait until the call is here."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await self.reached.wait()

    async def block(self) -> None:
        """Keep the call until the test lets it go."""
        self.reached.set()
        await self.released.wait()
        if self.error is not None:
            raise self.error


class FakeStore:
    """A shared store that fails, or holds calls, as it is told."""

    shared = True
    location = "told://"

    def __init__(self, clock: ManualClock) -> None:
        self.memory = MemoryStore(clock.monotonic_us)
        self.down: StoreError | None = None
        self.errors: dict[str, StoreError] = {}
        self.heartbeat_reply = HeartbeatReply(1, "first")
        self.done: Journal[str] = Journal()
        self.calls: list[str] = []
        self.adjustments: list[Adjustment] = []
        self.heartbeats: list[tuple[str, int]] = []
        self.closed = 0
        self._holds: dict[str, list[HeldCall]] = defaultdict(list)

    def hold(
        self, verb: str, *, after_work: bool = False, error: StoreError | None = None
    ) -> HeldCall:
        """Hold the next call of this verb that is not held yet."""
        hold = HeldCall(after_work, error)
        self._holds[verb].append(hold)
        return hold

    def count(self, verb: str) -> int:
        """Return how often the verb was called."""
        return self.calls.count(verb)

    async def wait_until_done(self, verb: str, times: int = 1) -> None:
        """Wait until the verb was done this many times."""
        await self.done.wait_until(lambda done: done.count(verb) >= times)

    async def open(self) -> None:
        """Answer the probe."""

        async def work() -> None:
            pass

        await self._do("open", work)

    async def acquire(self, charges: Sequence[Charge], *, commit: bool = True) -> AcquireResult:
        """Decide in memory."""
        taken: AcquireResult = await self._do(
            "acquire", lambda: self.memory.acquire(charges, commit=commit)
        )
        return taken

    async def adjust(self, adjustments: Sequence[Adjustment]) -> Sequence[int]:
        """Correct in memory."""
        self.adjustments += adjustments
        times: Sequence[int] = await self._do("adjust", lambda: self.memory.adjust(adjustments))
        return times

    async def delete(self, keys: Sequence[str]) -> int:
        """Forget in memory."""
        count: int = await self._do("delete", lambda: self.memory.delete(keys))
        return count

    async def heartbeat(self, replica: str, ttl_us: int) -> HeartbeatReply:
        """Answer with the pulse of the moment."""
        self.heartbeats.append((replica, ttl_us))

        async def work() -> HeartbeatReply:
            return self.heartbeat_reply

        pulse: HeartbeatReply = await self._do("heartbeat", work)
        return pulse

    async def exchange_reports(
        self, replica: str, report: str, bounds: str, ttl_us: int, *, last: bool = False
    ) -> AuditReply:
        """Keep a statement in memory."""
        posted: AuditReply = await self._do(
            "exchange_reports",
            lambda: self.memory.exchange_reports(replica, report, bounds, ttl_us, last=last),
        )
        return posted

    async def aclose(self) -> None:
        """Close."""
        self.closed += 1

    async def _do(self, verb: str, work: Callable[[], Any]) -> Any:
        self.calls.append(verb)
        held = self._holds[verb]
        hold = held.pop(0) if held else None
        if hold is not None and not hold.after_work:
            await hold.block()
        error = self.down or self.errors.get(verb)
        if error is not None:
            raise error
        answer = await work()
        if hold is not None and hold.after_work:
            await hold.block()
        self.done.append(verb)
        return answer


class Bench:
    """A limiter over a told store, with all that it stands on; closed, it leaves no task behind.

    Args:
        policies: The policies in force.
        failures: Failures in a row that open the breaker.
    """

    def __init__(self, *policies: Policy, failures: int = 3) -> None:
        self.clock = ManualClock()
        self.store = FakeStore(self.clock)
        self.local = MemoryStore(self.clock.monotonic_us)
        self.recorder = Recorder()
        self.limiter = Limiter(
            self.store,
            local=self.local,
            clock=self.clock,
            observers=[self.recorder],
            breaker=BreakerSettings(failures=failures),
            replica="me",
        )
        self.limiter.active_policies.replace(PolicySet(policies))
        self._tasks_before = asyncio.all_tasks()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.limiter.aclose()
        assert asyncio.all_tasks() <= self._tasks_before

    async def remaining(self, policy: str, principal: str = "ann") -> int:
        """Return what the first limit of a policy has left in the shared store."""
        decision = await self.limiter.peek(policy, principal=principal, cost=0)
        return remaining(decision.results[0].limits[0])


def remaining(limit: Any) -> int:
    """Return the units that a limit's verdict says are left."""
    assert limit.status is not None
    left: int = limit.status.remaining
    return left


def rate_policy(name: str, *rates: str | Quota, **options: Any) -> Policy:
    """Return a policy of these limits."""
    limits = tuple(each if isinstance(each, Quota) else rate_quota(each) for each in rates)
    return Policy(name, limits, **options)


def fixed_window(limit: int) -> Quota:
    """Return a limit for each minute of the clock; a higher one has room at once."""
    return rate_quota(f"{limit}/minute", algorithm=Algorithm.FIXED_WINDOW)


def concurrency_policy(name: str, limit: int, *, lease: float = 30, **options: Any) -> Policy:
    """Return a policy of so many requests at once."""
    return Policy(name, (concurrency_quota(limit, lease=lease),), **options)


@asynccontextmanager
async def running(work: Coroutine[Any, Any, Kind]) -> AsyncIterator["asyncio.Task[Kind]"]:
    """Run work beside the test, and end it with the block if it has not ended by itself."""
    task = asyncio.get_running_loop().create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task}, timeout=TIMEOUT_SECONDS)
