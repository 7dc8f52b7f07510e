"""Resolution of the alerts, minutes after the outage and after other experiments."""

from support import e2e_timeouts as timeouts
from support.e2e_observed import DEGRADED, UNREACHABLE, FaultRun, firing
from support.e2e_prometheus import Prometheus
from support.eventually import eventually


def test_alerts_resolve_after_the_outage(faults: FaultRun, prometheus: Prometheus) -> None:
    """The alerts of a past outage resolve by themselves."""
    del faults
    eventually(
        lambda: not firing(prometheus) & {UNREACHABLE, DEGRADED},
        within=timeouts.RESOLVED,
        what="the alerts of the outage are resolved",
    )
