"""Check of an app against a policy file, without serving requests.

The log of a server has the same findings at its start. This check needs no store, so that a build
fails before the release does.
"""

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from starlette.applications import Starlette

from fleetlimit.bootstrap.app_middlewares import has_middleware
from fleetlimit.bootstrap.constant_costs import callers_below_cost, require_possible_cost
from fleetlimit.bootstrap.fleetlimit import Fleetlimit
from fleetlimit.bootstrap.route_report import checked_dependencies, limits_by_route
from fleetlimit.bootstrap.settings import Settings
from fleetlimit.bootstrap.settled_costs import kept_estimates
from fleetlimit.bootstrap.unused_policies import find_unused_policies
from fleetlimit.bootstrap.unused_prefetch import unused_prefetches
from fleetlimit.core.policy import Policy
from fleetlimit.core.policy_set import DEFAULT_POLICY, PolicySet
from fleetlimit.errors import ConfigError
from fleetlimit.web.app_limiter import find_own_limiter, has_own_limiter
from fleetlimit.web.app_routes import get_app_route_table
from fleetlimit.web.route_info import RouteInfo
from fleetlimit.web.route_policies import RateLimitDependency, require_same_policy
from fleetlimit.web.route_table import RouteTable

_REST: Final = "{path:path}"
"""End of the template of a mount."""


@dataclass(frozen=True, slots=True)
class AppCheck:
    """Result of the check of an app.

    Args:
        errors: What fails at the start of a server or in each request of a route.
        warnings: What may be meant: a route without a limit, or a policy that only code outside the
            routes may use.
        routes: Number of the app's routes, without FastAPI's own pages of documentation.
        limited: Number of these routes that have a limit, or are exempt from limits.
    """

    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    routes: int
    limited: int


def check_app(app: Starlette, file: Path, *, by_hand: AbstractSet[str] = frozenset()) -> AppCheck:
    """Compare the routes of an app with a policy file.

    The middleware that an app lacks is taken as present, because `fleetlimit serve` adds it.

    Args:
        app: The app; its lifespan does not run, so that routes that it adds are not seen.
        file: The policy file.
        by_hand: Names of the policies that only checks by hand name.

    Raises:
        ConfigError: The policy file is invalid.
    """
    own = find_own_limiter(app)
    own = own if isinstance(own, Fleetlimit) else None
    fleetlimit = Fleetlimit(
        policies=file,
        settings=Settings(store="memory://"),
        # A resolver names tiers that no file lists.
        resolver=own.resolver if own is not None else None,
        exempt=own.limiter.exemption if own is not None else None,
    )
    fleetlimit.activate_policies()
    policies = fleetlimit.policy_file.policy_set
    table = get_app_route_table(app.router)
    limits = _CodeLimits(fleetlimit, table)
    unused = [
        *find_unused_policies(
            policies,
            table.routes,
            named=limits.named | by_hand,
            known_tiers=fleetlimit.http_limiter.identifier.known_tiers,
            match_policies=True,
            exemption=fleetlimit.limiter.exemption,
        )
    ]
    routes = _own_routes(table)
    unlimited = {*_unlimited_routes(fleetlimit, routes)}
    warnings = [
        *_missing_middleware(app, fleetlimit),
        *limits.warnings,
        *(each.detail for each in unused if not each.is_certain),
        *(detail for _, detail in kept_estimates(policies, table.routes)),
        *(detail for _, detail in unused_prefetches(policies)),
        *(
            f"route {name} has no limit: write Depends(RateLimit(...)) on it, a policy whose match "
            "includes it, or an exemption"
            for name in sorted(unlimited)
        ),
    ]
    return AppCheck(
        errors=(
            *limits.errors,
            *_wrong_names(policies, by_hand),
            *(each.detail for each in unused if each.is_certain),
        ),
        warnings=tuple(warnings),
        routes=len(routes),
        limited=len([each for each in routes if each.name not in unlimited]),
    )


def _wrong_names(policies: PolicySet, by_hand: AbstractSet[str]) -> Iterator[str]:
    """Yield the errors of names that were given as those of policies checked by hand."""
    for name in sorted(by_hand):
        found = policies.get(name)
        if found is None:
            yield f"--by-hand {name}: there is no policy of that name"
        elif found.match is not None or name == DEFAULT_POLICY:
            yield f"--by-hand {name}: its match applies it: leave the option out"


class _CodeLimits:
    """The limits of an app's routes in its code, compared with the policies of a file.

    Args:
        fleetlimit: Limiter with the active policies of the file.
        table: Routes of the app.
    """

    def __init__(self, fleetlimit: Fleetlimit, table: RouteTable) -> None:
        self._http_limiter = fleetlimit.http_limiter
        self._policies = fleetlimit.policy_file.policy_set
        self._inline: dict[str, Policy] = {}
        self.named: set[str] = set()
        """Names of the file's policies that the routes name."""
        # By text, because several routes may share a limit.
        self.errors: dict[str, None] = {}
        self.warnings: dict[str, None] = {}
        for route in table.routes:
            self._add(route)

    def _add(self, route: RouteInfo) -> None:
        try:
            dependencies = checked_dependencies(route)
        except ConfigError as error:
            self.errors[f"route {route.name}: {error}"] = None
            return
        for dependency in dependencies:
            try:
                self._compare(dependency)
            except ConfigError as error:
                self.errors[f"route {route.name}: {error}"] = None

    def _compare(self, dependency: RateLimitDependency) -> None:
        policy = dependency.resolve_policy(self._http_limiter)
        in_file = self._policies.get(policy.name)
        if in_file is not policy:
            require_same_policy(in_file or policy, policy)
            require_same_policy(self._inline.setdefault(policy.name, policy), policy)
            return
        self.named.add(policy.name)
        require_possible_cost(dependency, policy, self._policies.source)
        if callers := callers_below_cost(dependency, policy):
            text = f"{dependency!r} can never pass the limits of {', '.join(callers)}"
            self.warnings[text] = None


def _own_routes(table: RouteTable) -> list[RouteInfo]:
    """Return the routes that the app's author wrote, without those where nothing is served.

    FastAPI's pages of documentation cannot have a dependency. A mounted app with routes answers 404
    at the other paths of its mount.
    """
    templates = [each.template for each in table.routes if each.endpoint is not None]
    return [
        route
        for route in table.routes
        if getattr(route.endpoint, "__module__", "") != "fastapi.applications"
        and (
            route.endpoint is not None
            or not any(each.startswith(route.template.removesuffix(_REST)) for each in templates)
        )
    ]


def _unlimited_routes(fleetlimit: Fleetlimit, routes: list[RouteInfo]) -> Iterator[str]:
    """Yield the names of the routes that no policy applies to, or that lack one for a method."""
    policies = fleetlimit.policy_file.policy_set
    for route in routes:
        if route.own_limits is not None:
            # The route of `usage_router()`, which callers without units may call.
            continue
        if route.mounted_app is not None and has_own_limiter(route.mounted_app):
            # Its own policies apply, which another file may have.
            continue
        exemption = fleetlimit.limiter.exemption
        if exemption is not None and exemption.includes_route(route.template):
            continue
        found = limits_by_route(RouteTable([route]), policies, fleetlimit.http_limiter)
        if any(
            not each.policies and not each.is_exempt
            for each in found
            if each.template == route.template
        ):
            yield route.name


def _missing_middleware(app: Starlette, fleetlimit: Fleetlimit) -> Iterator[str]:
    matching = any(
        each.match is not None or each.name == DEFAULT_POLICY
        for each in fleetlimit.policy_file.policy_set.policies
    )
    if matching and has_own_limiter(app) and not has_middleware(app):
        yield (
            "the app has a Fleetlimit and no RateLimitMiddleware, so that policies apply by their "
            "match under `fleetlimit serve` only: write app.add_middleware(RateLimitMiddleware)"
        )
