"""Label values for policies and tiers, bounded because code can make both without limit."""

import logging
from collections.abc import Iterator
from itertools import islice
from typing import Final

from fleetlimit.core.policy import Policy
from fleetlimit.core.policy_set import PolicySet
from fleetlimit.telemetry import names

MAX_POLICIES: Final = 500
"""Maximum number of `policy` labels. Each has at least 11 series, which take Prometheus memory
and each scrape time: 500 policies are some 13,000 lines."""
MAX_TIERS: Final = 100
"""Maximum number of `tier` labels. Each has some 6 series of each policy that names it."""
_log = logging.getLogger("fleetlimit")


class PolicyLabels:
    """Values of the label `policy`; a name that was counted once keeps its label."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._warned = False

    def label(self, policy: str) -> str:
        """Return the label of a policy: its name, or `other` beyond the bound."""
        if policy in self._names:
            return policy
        if len(self._names) < MAX_POLICIES:
            self._names.add(policy)
            return policy
        if not self._warned:
            self._warned = True
            _log.warning(
                "metrics.policies_limited detail=%r",
                f"more than {MAX_POLICIES} policies: metrics count further ones as "
                f"policy={names.OTHER_POLICY!r}; write one policy with tiers, or with a key, in "
                "place of a policy for each caller",
            )
        return names.OTHER_POLICY


def tiers_of(policy: Policy) -> Iterator[str]:
    """Yield the tiers that a policy names."""
    yield from policy.tiers
    if policy.match is not None:
        yield from policy.match.tiers


def labelled_tiers(policies: PolicySet) -> frozenset[str]:
    """Return the tiers with a label of their own; further ones are counted as `other`."""
    tiers = dict.fromkeys(tier for policy in policies.policies for tier in tiers_of(policy))
    if len(tiers) > MAX_TIERS:
        _log.warning(
            "metrics.tiers_limited detail=%r",
            f"the policies have {len(tiers)} tiers, above {MAX_TIERS}: metrics count further ones "
            f"as tier={names.OTHER_TIER!r}",
        )
    return frozenset(islice(tiers, MAX_TIERS))
