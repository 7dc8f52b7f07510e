"""The audit: every replica states what it let in, and one compares the sums with the limits.

It observes and never decides. Statements travel beside the requests, every two seconds; what counts
is in the replicas' memory, so a store that loses its state is told again what had been let in.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping

from fleetlimit.core.quota import SECOND_US
from fleetlimit.errors import StoreError
from fleetlimit.limiter.active_policies import ActivePolicies
from fleetlimit.limiter.audit.detector import Finding, OvershootDetector
from fleetlimit.limiter.audit.report import AuditedLimit, UsageReport, parse_bounds
from fleetlimit.limiter.audit.sample import UsageSample
from fleetlimit.limiter.circuit_breaker import CircuitBreaker
from fleetlimit.limiter.events import (
    AuditReported,
    BreakerState,
    Event,
    OvershootFound,
    PolicyAudit,
    StoreFailed,
)
from fleetlimit.limiter.periodic import PeriodicTask
from fleetlimit.limiter.ports import Clock, Sleep, Store

DEFAULT_CALLERS = 32
"""Callers audited for each limit."""
INTERVAL_SECONDS = 2.0
TTL_US = 6 * SECOND_US
"""A statement counts, and who made it may compare, until two more were missed."""
RETENTION_US = 300 * SECOND_US
"""How long what was found is shown, so that no scrape misses it."""
_log = logging.getLogger("fleetlimit")


class AuditService:
    """Makes this replica's statements, and compares those of all when this is the one to do it.

    Args:
        store: Where statements are kept.
        breaker: Whether the store is asked at all.
        emit: Hears of what was found.
        clock: The process's own time.
        policies: The policies in force.
        replica: This replica's name, as in the census.
        max_callers: Callers audited for each limit; 0 for no audit.
        sleep: How to wait between statements.
    """

    def __init__(
        self,
        store: Store,
        breaker: CircuitBreaker,
        emit: Callable[[Event], None],
        clock: Clock,
        policies: ActivePolicies,
        *,
        replica: str,
        max_callers: int = DEFAULT_CALLERS,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.sample = UsageSample(max_callers)
        self._store = store
        self._breaker = breaker
        self._emit = emit
        self._clock = clock
        self._policies = policies
        self._replica = replica
        self._max_callers = max_callers
        self._detector: OvershootDetector | None = None
        self._bounds: dict[str, int] | None = None
        self._overshoots: dict[tuple[AuditedLimit, str], deque[tuple[int, int]]] = {}
        self._task = PeriodicTask(self._beat, INTERVAL_SECONDS, sleep)

    def start(self) -> None:
        """Make statements from now on."""
        if self._max_callers:
            self._task.start()

    async def _beat(self) -> None:
        try:
            await self.run_once()
        except Exception:  # noqa: BLE001 - whatever it is, limits hold without an audit
            _log.exception("audit.failed")

    async def run_once(self, *, last: bool = False) -> None:
        """Make a statement, compare if this replica is the one to do it, and tell."""
        found: Mapping[str, Finding] = {}
        if self._breaker.state is BreakerState.CLOSED:
            try:
                found = await self._exchange(last=last)
            except StoreError as error:
                # Not through the breaker: nobody's request depends on it.
                self._emit(StoreFailed("audit", error))
        self._retain(found)
        self._publish(found)

    async def _exchange(self, *, last: bool) -> Mapping[str, Finding]:
        word = self._detector.bounds_message if self._detector is not None else ""
        statement = self.sample.snapshot()
        posted = await self._store.exchange_reports(
            self._replica, statement, word, TTL_US, last=last
        )
        self.sample.acknowledge(posted.store_now_us)
        bounds = parse_bounds(posted.bounds)
        # A store that lost its state has none until the next comparison.
        self._bounds = self._bounds if bounds is None else bounds
        if not posted.reports:
            self._detector = None
            return {}
        if self._detector is None:
            self._detector = OvershootDetector(self._max_callers)
        heard = {}
        for replica, (at_us, text) in posted.reports.items():
            heard[replica] = (at_us, UsageReport.parse(text))
            # Those of a large fleet take a while to read: requests go on in between.
            await asyncio.sleep(0)
        return self._detector.compare(posted.store_now_us, heard)

    def _retain(self, found: Mapping[str, Finding]) -> None:
        """Keep what was found until it has been shown for long enough."""
        now_us = self._clock.monotonic_us()
        for finding in found.values():
            for key, units in finding.overshoot.items():
                self._overshoots.setdefault(key, deque()).append((now_us, units))
            if finding.overshoot:
                limit, caller = worst = max(
                    finding.overshoot, key=lambda key: finding.overshoot[key]
                )
                units = finding.overshoot[worst]
                self._emit(OvershootFound(limit.policy, limit.quota.name, caller, units))
        for key, held in list(self._overshoots.items()):
            while held and held[0][0] <= now_us - RETENTION_US:
                held.popleft()
            if not held:
                del self._overshoots[key]

    def _publish(self, found: Mapping[str, Finding]) -> None:
        overshoot: dict[str, int] = {}
        for (limit, _), held in self._overshoots.items():
            units = sum(units for _, units in held)
            overshoot[limit.policy] = max(units, overshoot.get(limit.policy, 0))
        admitted = self.sample.drain_admitted(self._bounds)
        in_force = {policy.name for policy in self._policies.current.policies}
        named = sorted(in_force | admitted.keys() | found.keys() | overshoot.keys())
        self._emit(
            AuditReported(
                tuple(
                    PolicyAudit(
                        policy=name,
                        overshoot=overshoot.get(name, 0),
                        callers=finding.callers,
                        intervals=finding.intervals,
                        admitted=admitted.get(name, 0),
                        permitted=finding.permitted,
                    )
                    for name in named
                    for finding in (found.get(name) or Finding(),)
                )
            )
        )

    async def aclose(self) -> None:
        """Stop, with a last statement of what was let in until now."""
        if await self._task.stop():
            await self.run_once(last=True)
