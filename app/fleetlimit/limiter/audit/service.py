"""Audit service: every replica reports its usage, and one compares the sums with the limits.

Reports are sent every two seconds, independently of requests. The counts are in the replicas'
memory, so that a store which lost its state receives them again.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from fleetlimit.core.quota import SECOND_US
from fleetlimit.errors import StoreError
from fleetlimit.limiter.active_policies import ActivePolicies
from fleetlimit.limiter.audit.detector import BucketId, Finding, OvershootDetector, ReceivedReport
from fleetlimit.limiter.audit.report import UsageReport, parse_bounds
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

DEFAULT_AUDIT_CALLERS: Final = 32
"""Audited callers of each limit."""
INTERVAL_SECONDS: Final = 2.0
TTL_US: Final = 6 * SECOND_US
"""Lifetime of a report, and of the role to compare them: two reports may be lost."""
RETENTION_US: Final = 300 * SECOND_US
"""How long an overshoot is shown, so that every scrape of the metrics sees it."""


@dataclass(frozen=True, slots=True)
class _FoundOvershoot:
    """Units above a limit, and the monotonic time at which they were found."""

    mono_found_at_us: int
    units: int


class AuditService:
    """Reports this replica's usage, and compares all reports if this replica has that role.

    Args:
        store: Where reports are exchanged.
        get_breaker: Returns the circuit breaker of the server that has the reports, whose state
            decides whether to call the store.
        emit: Receives events of the results.
        clock: Clock of this process.
        policies: The active policies.
        sample: Usage of this replica.
        get_replica: Returns the name of this replica, as in `ReplicaMembership`.
        sleep: Pause between reports.
    """

    def __init__(
        self,
        store: Store,
        get_breaker: Callable[[], CircuitBreaker],
        emit: Callable[[Event], None],
        clock: Clock,
        *,
        policies: ActivePolicies,
        sample: UsageSample,
        get_replica: Callable[[], str],
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.sample = sample
        self._store = store
        self._get_breaker = get_breaker
        self._emit = emit
        self._clock = clock
        self._policies = policies
        self._get_replica = get_replica
        self._detector: OvershootDetector | None = None
        self._bounds: dict[str, int] | None = None
        self._overshoots: dict[BucketId, deque[_FoundOvershoot]] = {}
        self._task = PeriodicTask(
            self.run_once, INTERVAL_SECONDS, failure_event="audit.failed", sleep=sleep
        )

    def start(self) -> None:
        """Start to report periodically, if there are callers to audit."""
        if self.sample.audit_callers:
            self._task.start()

    async def run_once(self, *, last: bool = False) -> None:
        """Send a report, compare all reports if this replica has that role, and emit the result."""
        findings: Mapping[str, Finding] = {}
        breaker = self._get_breaker()
        if breaker.state is BreakerState.CLOSED:
            try:
                findings = await self._exchange(last=last)
            except StoreError as error:
                # Without the circuit breaker: a failed report must not open it for requests.
                self._emit(StoreFailed("exchange_reports", error, breaker.node))
        self._retain(findings)
        self._publish(findings)

    async def _exchange(self, *, last: bool) -> Mapping[str, Finding]:
        bounds_message = self._detector.bounds_message if self._detector is not None else ""
        reply = await self._store.exchange_reports(
            self._get_replica(), self.sample.snapshot(), bounds_message, TTL_US, last=last
        )
        self.sample.acknowledge(reply.store_now_us)
        bounds = parse_bounds(reply.bounds)
        # A store that lost its state has no bounds until the next comparison.
        self._bounds = self._bounds if bounds is None else bounds
        if not reply.reports:
            self._detector = None
            return {}
        if self._detector is None:
            self._detector = OvershootDetector(self.sample.audit_callers)
        reports = {}
        for replica, stored in reply.reports.items():
            report = UsageReport.parse(stored.text)
            reports[replica] = ReceivedReport(stored.store_reported_at_us, report)
            # Parsing the reports of a large fleet takes long: let requests run in between.
            await asyncio.sleep(0)
        return self._detector.compare(reply.store_now_us, reports)

    def _retain(self, findings: Mapping[str, Finding]) -> None:
        """Keep overshoots until they have been shown for long enough."""
        mono_now_us = self._clock.monotonic_us()
        for finding in findings.values():
            for bucket, units in finding.overshoot.items():
                self._overshoots.setdefault(bucket, deque()).append(
                    _FoundOvershoot(mono_now_us, units)
                )
            if finding.overshoot:
                worst = max(finding.overshoot, key=lambda bucket: finding.overshoot[bucket])
                limit, caller = worst
                units = finding.overshoot[worst]
                self._emit(OvershootFound(limit.policy, limit.quota.name, caller, units))
        for bucket, retained in list(self._overshoots.items()):
            while retained and retained[0].mono_found_at_us <= mono_now_us - RETENTION_US:
                retained.popleft()
            if not retained:
                del self._overshoots[bucket]

    def _publish(self, findings: Mapping[str, Finding]) -> None:
        overshoot: dict[str, int] = {}
        for (limit, _), retained in self._overshoots.items():
            units = sum(found.units for found in retained)
            overshoot[limit.policy] = max(units, overshoot.get(limit.policy, 0))
        admitted = self.sample.drain_admitted(self._bounds)
        active = {policy.name for policy in self._policies.current.policies}
        names = sorted(active | admitted.keys() | findings.keys() | overshoot.keys())
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
                    for name in names
                    for finding in (findings.get(name) or Finding(),)
                )
            )
        )

    async def aclose(self) -> None:
        """Stop, and send a last report."""
        if await self._task.stop():
            await self.run_once(last=True)
