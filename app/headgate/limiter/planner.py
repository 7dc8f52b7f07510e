"""Makes plans, and keeps those that come out the same each time a caller comes back."""

from collections.abc import Sequence

from headgate.core.keys import MAX_KEPT_CHARS, KeyScheme
from headgate.core.policy import Policy
from headgate.core.subject import Subject
from headgate.limiter.plan import Plan, make_plan

MAX_KEPT = 8_192

Asks = Sequence[tuple[Policy, int]]


class Planner:
    """Turns what is asked, and by whom, into plans.

    Args:
        keys: How buckets are named.
    """

    def __init__(self, keys: KeyScheme) -> None:
        self._keys = keys
        self._kept: dict[tuple[str, str, str, str, str], tuple[Asks, Plan]] = {}

    def plan(self, asks: Asks, subject: Subject) -> Plan:
        """Return the plan of a check.

        Raises:
            CostError: A cost is negative, or no limit could ever hold it.
        """
        address, principal, route, _ = subject
        policy = asks[0][0].name if asks else ""
        if principal is None:
            place = "", address, "", route, policy
        else:
            place = principal.name, "", principal.tier, route, policy
        found = self._kept.get(place)
        if found is not None and found[0] == asks:
            return found[1]
        plan = make_plan(asks, subject, self._keys)
        # Clients can send long names: what is kept must not grow with them.
        short = len(place[0]) + len(place[1]) <= MAX_KEPT_CHARS
        if short and asks and all(each.same_for_caller for each, _ in asks):
            if len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            self._kept[place] = asks, plan
        return plan

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
