"""Limits in the OpenAPI schema of an app: rejections, headers and the extension `x-ratelimit`.

`app.openapi` is replaced on the app object by a function that completes a copy of the schema that
the app makes, so that the app's own customizing and its cache stay as they are. The limits are
those of the active policies, also after a reload.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Host, Mount

from fleetlimit.core.policy import Mode, OnStoreError, Policy
from fleetlimit.core.policy_set import PolicySet
from fleetlimit.core.quota import SECOND_US, Algorithm, Quota
from fleetlimit.core.usage import Usage
from fleetlimit.web.app_limiter import has_own_limiter
from fleetlimit.web.app_routes import get_app_route_table
from fleetlimit.web.header_layout import TOKENS, unit_of
from fleetlimit.web.http_limiter import HTTPLimiter
from fleetlimit.web.responses import MEDIA_TYPE, PROBLEM_SCHEMA
from fleetlimit.web.route_info import RouteInfo
from fleetlimit.web.route_policies import Cost, RateLimitDependency
from fleetlimit.web.route_scan import flatten, get_mounted_app

EXTENSION: Final = "x-ratelimit"
"""Member of an operation with its limits."""
SCHEMA_NAME: Final = "RateLimitProblem"
"""Name of the schema of problem details among the components."""
_METHODS: Final = frozenset({"get", "put", "post", "delete", "options", "head", "patch", "trace"})
"""Members of a path item that are operations (OpenAPI 3.1, section 4.8.9)."""
_PERIODS: Final = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))
_PARAMETER: Final = re.compile(r"{(\w+)(?::\w+)?}", re.ASCII)
_USUAL_ANCHORS: Final = (None, "monday", 1, "01-01")
_MAX_WORDS_CHARS: Final = 300
"""Longest list of limits in the description of a response; the extension has all."""


@dataclass(frozen=True, slots=True)
class LimitSource:
    """What the limits of an app are read from.

    Args:
        http_limiter: The limiter, with the headers of the responses.
        policies: Returns the current policies.
        match_policies: Whether a middleware applies policies by their match.
        has_own_format: Returns whether code of the app may answer rejections, so that their body is
            not known.
    """

    http_limiter: HTTPLimiter
    policies: Callable[[], PolicySet]
    match_policies: bool
    has_own_format: Callable[[], bool]

    def exempts(self, policy: Policy, template: str) -> bool:
        """Return whether a policy limits no request of a route, because of its template."""
        exemptions = (policy.exemption, self.http_limiter.limiter.exemption)
        return any(each is not None and each.includes_route(template) for each in exemptions)

    def has_own_limits(self, policy: Policy) -> bool:
        """Return whether callers may have limits of their own under a policy."""
        provider = self.http_limiter.limiter.provided_limits
        return policy.limits_function is not None or provider is not None


class DocumentedOpenAPI:
    """`openapi` of an app, with the limits of its routes.

    Args:
        original: The app's own function.
        app: The app.
        outer: The app whose limiter applies, which is the app or one that it is mounted in.
        prefixes: Paths under which the app is mounted; one empty path for the outer app itself.
        source: What the limits are read from.
    """

    def __init__(
        self,
        original: Callable[[], dict[str, Any]],
        app: FastAPI,
        outer: Starlette,
        prefixes: Sequence[str],
        source: LimitSource,
    ) -> None:
        self.original = original
        self._app = app
        self._outer = outer
        self._prefixes = prefixes
        self._source = source
        self._made_from: tuple[Any, ...] = ()
        self._schema: dict[str, Any] = {}

    def __call__(self) -> dict[str, Any]:
        """Return the schema."""
        schema = self.original()
        try:
            return self._documented(schema)
        except Exception as error:  # noqa: BLE001 - documentation must not break the app's schema
            self._source.http_limiter.failure_log.write("openapi.failed", error)
            return schema

    def _documented(self, schema: dict[str, Any]) -> dict[str, Any]:
        policies = self._source.policies()
        routes = get_app_route_table(self._outer.router).routes
        overrides = dict(self._app.dependency_overrides)
        parts = (schema, policies, routes)
        before = self._made_from
        same = before and all(a is b for a, b in zip(parts, before, strict=False))
        if not (same and overrides == before[3]):
            self._schema = self._complete(schema, policies, routes)
            self._made_from = (*parts, overrides)
        return self._schema

    def _complete(
        self, schema: dict[str, Any], policies: PolicySet, routes: Iterable[RouteInfo]
    ) -> dict[str, Any]:
        by_path: dict[str, list[RouteInfo]] = {}
        for each in routes:
            if each.template:
                by_path.setdefault(_path_of(each.template), []).append(each)
        writer = _Writer(schema, self._source)
        for path, item in (schema.get("paths") or {}).items():
            for member in _METHODS & item.keys():
                route = self._find_route(by_path, path, member.upper())
                if route is not None:
                    writer.write(path, member, self._limits_of(route, member.upper(), policies))
        return writer.schema

    def _find_route(
        self, by_path: Mapping[str, list[RouteInfo]], path: str, method: str
    ) -> RouteInfo | None:
        for prefix in self._prefixes:
            for route in by_path.get(prefix + path, ()):
                if not route.methods or method in route.methods:
                    return route
        return None

    def _limits_of(self, route: RouteInfo, method: str, policies: PolicySet) -> "list[_Documented]":
        """Return what limits an operation, each policy once; a dependency has its cost."""
        source = self._source
        found: dict[str, _Documented] = {}
        if source.match_policies:
            for policy in route.policies_for(policies, method):
                found[policy.name] = _Documented(policy, source.has_own_limits(policy))
        for limit in filter(route.is_limited_by, route.active_rate_limits()):
            policy_of_limit = limit.find_policy(policies)
            if policy_of_limit is None:
                continue
            if limit.openapi:
                own = source.has_own_limits(policy_of_limit)
                found[policy_of_limit.name] = _Documented(policy_of_limit, own, limit)
            else:
                found.pop(policy_of_limit.name, None)
        return [
            each
            for each in found.values()
            if each.is_visible and not source.exempts(each.policy, route.template)
        ]


def _path_of(template: str) -> str:
    """Return the path of a route in a schema, which has no convertors."""
    return _PARAMETER.sub(r"{\1}", template)


@dataclass(frozen=True, slots=True)
class _Documented:
    """A policy of an operation.

    Args:
        policy: The policy.
        has_own_limits: Whether callers may have limits of their own.
        limit: The dependency that names the policy; None without one.
    """

    policy: Policy
    has_own_limits: bool
    limit: RateLimitDependency | None = None

    @property
    def is_visible(self) -> bool:
        """Whether the policy rejects requests: clients see nothing of one in shadow."""
        return self.policy.mode is Mode.ENFORCE and self.policy.enforce_percent > 0

    def to_dict(self) -> dict[str, Any]:
        """Return the item of the extension."""
        policy = self.policy
        item: dict[str, Any] = {
            "policy": policy.name,
            "key": [str(part) for part in policy.key],
            "limits": self._limits(""),
        }
        if policy.tiers:
            item["tiers"] = {tier: self._limits(tier) for tier in policy.tiers}
        if self.has_own_limits:
            item["own-limits"] = True
        if policy.match is not None and policy.match.tiers and self.limit is None:
            item["only-tiers"] = sorted(policy.match.tiers)
        if policy.exemption is not None and policy.exemption.tiers:
            item["exempt-tiers"] = sorted(policy.exemption.tiers)
        cost = self._cost
        if isinstance(cost, Usage):
            item["cost"] = "usage"
        elif cost != 1:
            item["cost"] = cost if isinstance(cost, int) else "computed"
        if policy.count is not None:
            item["count"] = policy.count.text
        return item

    @property
    def _cost(self) -> Cost:
        cost = self.limit.cost if self.limit is not None else None
        return (self.policy.cost or 1) if cost is None else cost

    @property
    def _unit(self) -> str:
        return TOKENS if isinstance(self._cost, Usage) else unit_of(self.policy.name)

    def _limits(self, tier: str) -> list[dict[str, Any]]:
        return [_limit_to_dict(quota, self._unit) for quota in self.policy.quotas_for(tier)]

    def words(self) -> Iterator[str]:
        """Yield the limits in words, those of each tier with its name."""
        unit = self._unit
        for tier in self.policy.tiers:
            words = [quota_words(quota, unit) for quota in self.policy.quotas_for(tier)]
            yield f"{tier}: {' and '.join(words)}"
        if self.policy.limits:
            words = [quota_words(quota, unit) for quota in self.policy.quotas_for("")]
            own = ", or the caller's own limits" if self.has_own_limits else ""
            yield ("otherwise: " if self.policy.tiers else "") + " and ".join(words) + own


class _Writer:
    """Copy of a schema, in which only the changed parts are new objects."""

    def __init__(self, schema: dict[str, Any], source: LimitSource) -> None:
        self.schema = {**schema, "paths": {**(schema.get("paths") or {})}}
        self._source = source
        self._headers = {
            name: {"description": text, "schema": {"type": "string"}}
            for name, text in source.http_limiter.header_layout.descriptions().items()
        }

    def write(self, path: str, method: str, limits: Sequence[_Documented]) -> None:
        """Document an operation."""
        if not limits:
            return
        paths = self.schema["paths"]
        paths[path] = item = {**paths[path]}
        item[method] = operation = {**item[method]}
        operation.setdefault(EXTENSION, [each.to_dict() for each in limits])
        responses = {
            status: self._with_headers(response) if str(status).startswith("2") else response
            for status, response in (operation.get("responses") or {}).items()
        }
        operation["responses"] = responses
        names = {str(status).upper() for status in responses}
        if not names & {"429", "4XX", "DEFAULT"}:
            words = "; ".join(text for each in limits for text in each.words())
            shown = f" ({words})" if len(words) <= _MAX_WORDS_CHARS else ""
            responses["429"] = self._rejection(f"A limit is exceeded{shown}.")
        if any(each.policy.on_store_error is OnStoreError.DENY for each in limits) and (
            not names & {"503", "5XX", "DEFAULT"}
        ):
            responses["503"] = self._rejection("A limit cannot be checked at the moment.")

    def _with_headers(self, response: Any) -> Any:
        if not isinstance(response, dict) or "$ref" in response:
            return response
        return {**response, "headers": {**self._headers, **(response.get("headers") or {})}}

    def _rejection(self, description: str) -> dict[str, Any]:
        wait = {
            "description": "Seconds to wait before the next attempt.",
            "schema": {"type": "integer", "minimum": 1},
        }
        response: dict[str, Any] = {
            "description": description,
            "headers": {"Retry-After": wait, **self._headers},
        }
        if not self._source.has_own_format():
            response["content"] = {MEDIA_TYPE: {"schema": self._problem_schema()}}
        return response

    def _problem_schema(self) -> dict[str, Any]:
        """Return a reference to the schema, or the schema if the app has another of its name."""
        components = self.schema.get("components") or {}
        schemas = components.get("schemas") or {}
        if schemas.get(SCHEMA_NAME, PROBLEM_SCHEMA) != PROBLEM_SCHEMA:
            return PROBLEM_SCHEMA
        if SCHEMA_NAME not in schemas:
            schemas = {**schemas, SCHEMA_NAME: PROBLEM_SCHEMA}
            self.schema["components"] = {**components, "schemas": schemas}
        return {"$ref": f"#/components/schemas/{SCHEMA_NAME}"}


def _limit_to_dict(quota: Quota, unit: str) -> dict[str, Any]:
    item: dict[str, Any] = {
        "description": quota_words(quota, unit),
        "algorithm": quota.algorithm.value,
        "limit": quota.limit,
    }
    if quota.algorithm is not Algorithm.CONCURRENCY:
        item["seconds"] = _number(quota.period_us / SECOND_US)
    if (calendar := quota.calendar) is not None:
        windows = {"unit": calendar.unit, "timezone": calendar.timezone, "anchor": calendar.anchor}
        item |= {name: value for name, value in windows.items() if value is not None}
    if quota.burst != quota.limit:
        item["burst"] = quota.burst
    if quota.cost != 1:
        item["cost"] = quota.cost
    return item


def quota_words(quota: Quota, unit: str) -> str:
    """Return a limit in words, such as `100 requests per minute, at most 150 at once`."""
    counted = unit if quota.limit != 1 else unit.removesuffix("s")
    if quota.algorithm is Algorithm.CONCURRENCY:
        words = f"{quota.limit:,} {counted} at the same time"
    else:
        words = f"{quota.limit:,} {counted} per {_period_words(quota)}"
    if quota.burst != quota.limit:
        words += f", at most {quota.burst:,} at once"
    return words if quota.cost == 1 else f"{words}, each counts {quota.cost:,}"


def _period_words(quota: Quota) -> str:
    if (calendar := quota.calendar) is not None:
        first = "" if calendar.anchor in _USUAL_ANCHORS else f" from {calendar.anchor} on"
        return f"calendar {calendar.unit}{first} ({calendar.timezone})"
    seconds = quota.period_us / SECOND_US
    for length, name in _PERIODS:
        count, rest = divmod(seconds, length)
        if count and not rest:
            return name if count == 1 else f"{count:,.0f} {name}s"
    return f"{_number(seconds)} seconds"


def _number(seconds: float) -> float:
    return int(seconds) if seconds.is_integer() else seconds


def document_app(outer: Starlette, source: LimitSource) -> None:
    """Document the limits of an app, and of the mounted apps that use its limiter."""
    prefixes: dict[Starlette, list[str]] = {outer: [""]}
    for app, prefix in _mounted(outer.routes, ""):
        prefixes.setdefault(app, []).append(prefix)
    for app, paths in prefixes.items():
        if isinstance(app, FastAPI):
            original = _undocumented(app)
            documented = DocumentedOpenAPI(original, app, outer, paths, source)
            app.openapi = documented  # type: ignore[method-assign]  # the way that FastAPI documents


def undocument_app(outer: Starlette) -> None:
    """Undo `document_app`."""
    for app in (outer, *(app for app, _ in _mounted(outer.routes, ""))):
        if isinstance(app, FastAPI) and isinstance(app.openapi, DocumentedOpenAPI):
            original = app.openapi.original
            del app.openapi
            if app.openapi != original:
                app.openapi = original  # type: ignore[method-assign]  # as it was


def _undocumented(app: FastAPI) -> Callable[[], dict[str, Any]]:
    openapi: Any = app.openapi
    return openapi.original if isinstance(openapi, DocumentedOpenAPI) else openapi


def _mounted(routes: Sequence[BaseRoute], prefix: str) -> Iterator[tuple[Starlette, str]]:
    """Yield the apps that are mounted here and within, without a limiter of their own."""
    for route in flatten(routes):
        inner = getattr(route, "original_route", route)
        app = get_mounted_app(route) if isinstance(inner, Mount | Host) else None
        if app is None:
            continue
        path = prefix
        if isinstance(inner, Mount):
            path += _path_of(route.path.rstrip("/"))
        if isinstance(app, Starlette):
            if has_own_limiter(app):
                continue
            yield app, path
        yield from _mounted(app.routes or (), path)
