"""Route table of an ASGI app whose routes cannot be read."""

from collections.abc import Iterator

from fleetlimit.core.policy_set import PolicySet
from fleetlimit.limiter.active_policies import ActivePolicies
from fleetlimit.web.route_info import RouteInfo
from fleetlimit.web.route_table import RouteTable

_ANY_PATH = "{path:path}"


class PolicyRouteTable(RouteTable):
    """Route table from the templates in the policies, for an ASGI app without readable routes.

    Args:
        policies: The active policies; the table is rebuilt when they change.
    """

    def __init__(self, policies: ActivePolicies) -> None:
        super().__init__(_policy_routes(policies.current))
        policies.subscribe(lambda: self.replace(_policy_routes(policies.current)))


def _policy_routes(policies: PolicySet) -> Iterator[RouteInfo]:
    """Return a route for each template in the policies."""
    templates = {
        template
        for policy in policies.policies
        if policy.match is not None
        for template in map(_to_template, policy.match.routes)
        if template.startswith("/")
    }
    # Exact templates come first, then prefixes, longest first.
    ordered = sorted(templates, key=lambda each: (each.endswith(_ANY_PATH), -len(each), each))
    return (RouteInfo(template) for template in ordered)


def _to_template(route: str) -> str:
    """Return the path template of a policy's route, in which `*` matches any suffix."""
    if not route.endswith("*"):
        return route
    return (route[:-1] or "/") + _ANY_PATH
