"""What comes minutes after the outage that Prometheus saw; other experiments go on meanwhile."""

from support import e2e_timeouts as timeouts
from support.e2e_eventually import eventually
from support.e2e_observed import DEGRADED, UNREACHABLE, Story, firing
from support.e2e_prometheus import Prometheus


def test_resolved(story: Story, prometheus: Prometheus) -> None:
    """The alerts of an outage that is over are resolved by themselves."""
    del story
    eventually(
        lambda: not firing(prometheus) & {UNREACHABLE, DEGRADED},
        within=timeouts.RESOLVED,
        what="the alerts of the outage are resolved",
    )
