"""Fakes for tests of the limiter: clock, sleep, store and observer."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, Self, TypeVar

from fleetlimit.core.charge import Adjustment, Charge
from fleetlimit.core.policy import Policy
from fleetlimit.core.policy_set import PolicySet
from fleetlimit.core.quota import Algorithm, Quota, concurrency_quota, rate_quota
from fleetlimit.errors import StoreError, StoreUnavailable
from fleetlimit.limiter.circuit_breaker import BreakerSettings
from fleetlimit.limiter.events import Event
from fleetlimit.limiter.limiter import Limiter
from fleetlimit.limiter.ports import Topology
from fleetlimit.limiter.store_replies import AcquireResult, AuditReply, HeartbeatReply
from fleetlimit.stores.memory import MemoryStore
from support.clock import ManualClock
from support.eventually import PATIENCE_SECONDS

Line = TypeVar("Line")
Kind = TypeVar("Kind")


class Journal(Generic[Line]):
    """List that a test can wait for."""

    def __init__(self) -> None:
        self.entries: list[Line] = []
        self._written = asyncio.Event()

    def append(self, line: Line) -> None:
        """Add an entry."""
        self.entries.append(line)
        self._written.set()

    async def wait_until(self, predicate: Callable[[list[Line]], bool]) -> None:
        """Wait until the predicate is true of the entries."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not predicate(self.entries):
                self._written.clear()
                await self._written.wait()


class Recorder:
    """Observer that keeps events."""

    def __init__(self) -> None:
        self.events: Journal[Event] = Journal()

    def on_event(self, event: Event) -> None:
        """Keep the event."""
        self.events.append(event)

    def of(self, kind: type[Kind]) -> list[Kind]:
        """Return the events of one type."""
        return [event for event in self.events.entries if isinstance(event, kind)]

    async def wait_for(self, event: Event) -> None:
        """Wait until an equal event was emitted."""
        await self.events.wait_until(lambda events: event in events)


class ManualSleep:
    """Sleep whose pauses last until the test ends them."""

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
        """Wait until this many pauses have started in all."""
        await self.requested.wait_until(lambda requested: len(requested) >= count)

    def finish(self, index: int = -1) -> None:
        """End one pause, the last by default."""
        self._ends[index].set()


def timeout_error(kind: str = "timeout") -> StoreUnavailable:
    """Return the error of a store that does not reply in time."""
    return StoreUnavailable("no answer", kind=kind)


@dataclass(eq=False)
class HeldCall:
    """One call of a fake store that the test holds.

    Args:
        after_work: Whether the store has executed the call, and only the reply is held.
        error: Error that the call ends with.
    """

    after_work: bool = False
    error: StoreError | None = None
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait(self) -> None:
        """Wait until the call is held."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self.reached.wait()

    async def block(self) -> None:
        """Hold the call until the test releases it."""
        self.reached.set()
        await self.released.wait()
        if self.error is not None:
            raise self.error


class FakeStore:
    """Shared store that fails, or holds calls, as the test requests."""

    shared = True
    location = "fake://"
    topology: Topology | None = None

    def __init__(self, clock: ManualClock) -> None:
        self.memory = MemoryStore(clock.monotonic_us)
        self.down: StoreError | None = None
        self.errors: dict[str, StoreError] = {}
        self.heartbeat_reply = HeartbeatReply(1, "first")
        self.done: Journal[str] = Journal()
        self.calls: list[str] = []
        self.adjustments: list[Adjustment] = []
        self.renewed: list[Charge] = []
        self.heartbeats: list[tuple[str, int]] = []
        self.closed = 0
        self._holds: dict[str, list[HeldCall]] = defaultdict(list)

    def hold(
        self, verb: str, *, after_work: bool = False, error: StoreError | None = None
    ) -> HeldCall:
        """Hold the next call of this method."""
        hold = HeldCall(after_work, error)
        self._holds[verb].append(hold)
        return hold

    def count(self, verb: str) -> int:
        """Return the number of calls of a method."""
        return self.calls.count(verb)

    async def wait_until_done(self, verb: str, times: int = 1) -> None:
        """Wait until a method was executed this many times."""
        await self.done.wait_until(lambda done: done.count(verb) >= times)

    async def open(self, _node: str = "") -> None:
        """Reply to the probe."""

        async def work() -> None:
            pass

        await self._do("open", work)

    async def acquire(self, charges: Sequence[Charge], *, dry_run: bool = False) -> AcquireResult:
        """Decide in memory."""
        result: AcquireResult = await self._do(
            "acquire", lambda: self.memory.acquire(charges, dry_run=dry_run)
        )
        return result

    async def adjust(self, adjustments: Sequence[Adjustment]) -> Sequence[int]:
        """Correct in memory."""
        self.adjustments += adjustments
        times: Sequence[int] = await self._do("adjust", lambda: self.memory.adjust(adjustments))
        return times

    async def renew(self, leases: Sequence[Charge]) -> None:
        """Renew in memory."""
        self.renewed += leases
        await self._do("renew", lambda: self.memory.renew(leases))

    async def delete(self, keys: Sequence[str]) -> int:
        """Delete in memory."""
        count: int = await self._do("delete", lambda: self.memory.delete(keys))
        return count

    async def heartbeat(self, replica: str, ttl_us: int) -> HeartbeatReply:
        """Reply with the current heartbeat reply."""
        self.heartbeats.append((replica, ttl_us))

        async def work() -> HeartbeatReply:
            return self.heartbeat_reply

        reply: HeartbeatReply = await self._do("heartbeat", work)
        return reply

    async def key_secrets(self) -> frozenset[str]:
        """Return the fingerprints of the current heartbeat reply."""
        found: frozenset[str] = await self._do("key_secrets", self._key_secrets)
        return found

    async def _key_secrets(self) -> frozenset[str]:
        return self.heartbeat_reply.key_secrets

    async def exchange_reports(
        self, replica: str, report: str, bounds: str, ttl_us: int, *, last: bool = False
    ) -> AuditReply:
        """Exchange reports in memory."""
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
            # Another object for each call: the breaker counts one object as one failure.
            raise type(error)(str(error), kind=error.kind)
        answer = await work()
        if hold is not None and hold.after_work:
            await hold.block()
        self.done.append(verb)
        return answer


class Bench:
    """Limiter over a fake store; closing it checks that no task is left.

    Args:
        policies: The active policies.
        failures: Consecutive failures that open the circuit breaker.
    """

    def __init__(self, *policies: Policy, failures: int = 3) -> None:
        self.clock = ManualClock()
        self.store = self.make_store()
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

    def make_store(self) -> FakeStore:
        """Return the store of the limiter."""
        return FakeStore(self.clock)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.limiter.aclose()
        assert asyncio.all_tasks() <= self._tasks_before

    async def remaining(self, policy: str, principal: str = "ann") -> int:
        """Return the remaining units."""
        decision = await self.limiter.peek(policy, principal=principal, cost=0)
        return remaining(decision.results[0].limits[0])


def remaining(limit: Any) -> int:
    """Return the remaining units."""
    assert limit.status is not None
    left: int = limit.status.remaining
    return left


def rate_policy(name: str, *rates: str | Quota, **options: Any) -> Policy:
    """Return a policy of these limits."""
    limits = tuple(each if isinstance(each, Quota) else rate_quota(each) for each in rates)
    return Policy(name, limits, **options)


def fixed_window(limit: int) -> Quota:
    """Return a limit per aligned minute; a higher one has units at once."""
    return rate_quota(f"{limit}/minute", algorithm=Algorithm.FIXED_WINDOW)


def concurrency_policy(name: str, limit: int, *, lease: float = 30, **options: Any) -> Policy:
    """Return a policy of a number of concurrent requests."""
    return Policy(name, (concurrency_quota(limit, lease=lease),), **options)


@asynccontextmanager
async def running(work: Coroutine[Any, Any, Kind]) -> AsyncIterator["asyncio.Task[Kind]"]:
    """Run a coroutine beside the test, and cancel it at the end of the block."""
    task = asyncio.get_running_loop().create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task}, timeout=PATIENCE_SECONDS)
