"""Makes plans, and keeps those that come out the same each time a caller comes back."""

from collections.abc import Sequence

from fleetlimit.core.keys import MAX_KEPT_CHARS, KeyScheme
from fleetlimit.core.policy import Policy
from fleetlimit.core.subject import Subject
from fleetlimit.limiter.plan import Part, Plan, make_plan

MAX_KEPT = 8_192

Asks = Sequence[tuple[Policy, int]]


class _Shared:
    """The plans of one route's callers, and what they have in common.

    What each caller has of its own is what a processor's caches do not hold when there are many.
    """

    __slots__ = ("parts", "plans")

    def __init__(self) -> None:
        self.parts: tuple[Part, ...] = ()
        self.plans: dict[str, tuple[Asks, Plan]] = {}


class Planner:
    """Turns what is asked, and by whom, into plans.

    Args:
        keys: How buckets are named.
    """

    def __init__(self, keys: KeyScheme) -> None:
        self._keys = keys
        self._kept: dict[tuple[str, ...], _Shared] = {}
        self._plans = 0

    def plan(self, asks: Asks, subject: Subject) -> Plan:
        """Return the plan of a check.

        Raises:
            CostError: A cost is negative, or no limit could ever hold it.
        """
        address, principal, route, _ = subject
        policy = asks[0][0].name if asks else ""
        place: tuple[str, ...]
        if principal is None:
            name, place = address, (route, policy)
        else:
            name, place = principal.name, (route, policy, principal.tier)
        shared = self._kept.get(place)
        if shared is not None:
            found = shared.plans.get(name)
            if found is not None and found[0] == asks:
                return found[1]
        plan = make_plan(asks, subject, self._keys)
        # Clients can send long names: what is kept must not grow with them.
        if len(name) <= MAX_KEPT_CHARS and asks and all(each.same_for_caller for each, _ in asks):
            return self._keep(place, name, asks, plan)
        return plan

    def _keep(self, place: tuple[str, ...], name: str, asks: Asks, plan: Plan) -> Plan:
        if self._plans >= MAX_KEPT:
            self.clear()
        shared = self._kept.setdefault(place, _Shared())
        if plan.parts == shared.parts:
            plan = plan._replace(parts=shared.parts)
        shared.parts = plan.parts
        self._plans += name not in shared.plans
        shared.plans[name] = asks, plan
        return plan

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self._plans = 0
