"""Replicas over one store, whose reports are sent at the request of the test."""

from collections.abc import Callable, Sequence

from fleetlimit.core.keys import KeyScheme
from fleetlimit.core.policy import Policy
from fleetlimit.core.policy_set import PolicySet
from fleetlimit.core.quota import SECOND_US
from fleetlimit.limiter.audit.detector import LAG_US
from fleetlimit.limiter.circuit_breaker import BreakerSettings
from fleetlimit.limiter.events import AuditReported, OvershootFound, PolicyAudit
from fleetlimit.limiter.limiter import Limiter
from fleetlimit.limiter.ports import Store
from fleetlimit.stores.memory import MemoryStore
from support.clock import ManualClock
from support.limiter import Recorder, rate_policy

AUDIT_INTERVAL_US = 2 * SECOND_US


class Fleet:
    """Limiters of several replicas. None of them is started, so no task runs.

    Args:
        clock: Clock of the store and of all replicas.
        store: Returns a replica's connection to the store.
        policies: The active policies.
        audit_callers: Audited callers of each limit.
    """

    def __init__(
        self,
        clock: ManualClock,
        store: Callable[[], Store],
        *policies: Policy,
        replicas: Sequence[str] = ("a", "b", "c"),
        audit_callers: int = 32,
        key_scheme: KeyScheme | None = None,
    ) -> None:
        self.clock = clock
        self.members: dict[str, Limiter] = {}
        self.recorders: dict[str, Recorder] = {}
        self._store = store
        self._policies = policies
        self._audit_callers = audit_callers
        self._key_scheme = key_scheme
        self._audit_order: list[str] = []
        for name in replicas:
            self.join(name)

    def __getitem__(self, name: str) -> Limiter:
        return self.members[name]

    def join(self, name: str) -> Limiter:
        """Add a replica."""
        self.recorders[name] = Recorder()
        self.members[name] = Limiter(
            self._store(),
            local=MemoryStore(self.clock.monotonic_us),
            key_scheme=self._key_scheme,
            clock=self.clock,
            observers=[self.recorders[name]],
            replica=name,
            audit_callers=self._audit_callers,
            # The test starts and ends outages by itself.
            breaker=BreakerSettings(failures=1_000_000),
        )
        self.members[name].active_policies.replace(PolicySet(self._policies))
        return self.members[name]

    async def audit_all(self) -> None:
        """Let every replica send its report."""
        for name in sorted(self.members):
            await self.members[name].audit.run_once()

    async def advance(self, seconds: float) -> None:
        """Let time pass; each replica sends a report every two seconds, in turn."""
        left_us = round(seconds * SECOND_US)
        while left_us > 0:
            step_us = min(AUDIT_INTERVAL_US // len(self.members), left_us)
            self.clock.advance_us(step_us)
            left_us -= step_us
            self._audit_order = [name for name in self._audit_order if name in self.members]
            self._audit_order += [name for name in self.members if name not in self._audit_order]
            self._audit_order.append(self._audit_order.pop(0))
            await self.members[self._audit_order[-1]].audit.run_once()

    async def advance_until_compared(self) -> None:
        """Let time pass until everything so far is compared."""
        await self.advance((LAG_US + 5 * SECOND_US) / SECOND_US + 2)

    async def spend(self, name: str, policy: str, caller: str, *, times: int = 1) -> int:
        """Check several times at one replica, and return how often it admitted."""
        decisions = [await self.members[name].check(policy, principal=caller) for _ in range(times)]
        return sum(decision.allowed for decision in decisions)

    def last_audit(self, name: str, policy: str) -> PolicyAudit:
        """Return a replica's last audit of a policy."""
        (audit,) = [
            each
            for each in self.recorders[name].of(AuditReported)[-1].policies
            if each.policy == policy
        ]
        return audit

    def overshoots(self) -> list[OvershootFound]:
        """Return all overshoots that any replica found."""
        return [
            event for recorder in self.recorders.values() for event in recorder.of(OvershootFound)
        ]

    def overshoot(self, policy: str) -> int:
        """Return the shown overshoot of a policy, as `max by (policy)` does."""
        return max(self.last_audit(name, policy).overshoot for name in self.members)

    def total(self, policy: str, figure: str) -> float:
        """Return the sum of a figure over all replicas and audits."""
        return sum(
            float(getattr(each, figure))
            for recorder in self.recorders.values()
            for event in recorder.of(AuditReported)
            for each in event.policies
            if each.policy == policy
        )

    async def aclose(self) -> None:
        """Close all."""
        for limiter in self.members.values():
            await limiter.aclose()


MINUTE = rate_policy("p", "6/minute")


class AuditBench:
    """Three replicas over one memory store whose buckets can be lost."""

    def __init__(self, *policies: object, audit_callers: int = 32) -> None:
        self.clock = ManualClock()
        self.store = MemoryStore(self.clock.monotonic_us)
        given = [policy for policy in policies if policy is not None] or [MINUTE]
        self.fleet = Fleet(self.clock, lambda: self.store, *given, audit_callers=audit_callers)  # type: ignore[arg-type]  # policies

    async def lose_buckets(self) -> None:
        """Delete all buckets, and nothing else."""
        await self.store.delete(list(self.store._buckets))


async def saturate(bench: AuditBench, *names: str) -> int:
    """Let one caller check at these replicas until all of them deny."""
    return sum([await bench.fleet.spend(name, "p", "ann", times=9) for name in names])
