"""Label values for policies, bounded because code can make policies without limit."""

import logging
from typing import Final

from fleetlimit.telemetry import names

MAX_POLICIES: Final = 500
"""Maximum number of `policy` labels. Each has at least 8 series, which take Prometheus memory and
each scrape time: 500 policies are some 10,000 lines."""
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
