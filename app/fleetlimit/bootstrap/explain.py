"""Explanation of one request: the policies that apply, their keys and the state of their limits."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

from starlette.types import Scope

from fleetlimit.bootstrap.policy_json import limit_to_dict, policy_to_dict
from fleetlimit.bootstrap.route_report import checked_dependencies
from fleetlimit.core.decision import BucketStatus, Outcome, PolicyResult
from fleetlimit.core.key_parts import HEADER_NAME
from fleetlimit.core.policy import ALL_PERCENT, Policy
from fleetlimit.core.quota import SECOND_US
from fleetlimit.core.subject import Identity, Principal, Subject
from fleetlimit.errors import ConfigError, StoreError
from fleetlimit.limiter.limiter import Limiter
from fleetlimit.limiter.plan import PolicyCost
from fleetlimit.web.http_limiter import HTTPLimiter
from fleetlimit.web.request_limits import join_headers
from fleetlimit.web.route_info import RouteInfo
from fleetlimit.web.route_policies import METHODS, select_policies

DEFAULT_ADDRESS: Final = "127.0.0.1"
NO_REPLICAS: Final = "not compared: the store is the memory of this process"


def render(explanation: Mapping[str, Any]) -> str:
    """Return an explanation as text. Lines fit 80 columns if the names are short."""
    return "\n".join(_text_lines(explanation))


def _text_lines(explanation: Mapping[str, Any]) -> Iterator[str]:
    identity = explanation["identity"]
    yield f"{explanation['method']} {explanation['path']} is route {explanation['route']}"
    tier = f", tier {identity['tier']}" if identity["tier"] else ""
    caller = identity["principal"] or identity["client_address"]
    yield f"from {caller}{tier}, subject {identity['subject']}"
    if (secret := explanation["key_secret"])["compared"] != NO_REPLICAS:
        yield f"key secret with fingerprint {secret['fingerprint']}, {secret['compared']}"
    if identity["error"]:
        yield f"the credential is rejected: {identity['error']}"
    for policy in explanation["policies"]:
        yield ""
        yield from _policy_lines(policy)
    if not explanation["policies"]:
        yield "no policy applies: the request is not limited"


def _policy_lines(policy: Mapping[str, Any]) -> Iterator[str]:
    mode = policy["mode"]
    if policy["enforce_percent"] < ALL_PERCENT:
        mode = f"{mode} for {policy['enforce_percent']} % of the keys"
        mode += "".join(f", {result['mode']} for this one" for result in policy["status"] or ())
    yield f"policy {policy['name']}: {mode}"
    key = ", ".join(policy["key"])
    yield f"  per {key}; {policy['on_store_error']} if the store is unavailable"
    results = policy["status"] or ()
    if any(result["outcome"] == Outcome.EXEMPT for result in results):
        yield "  this request is exempt"
        return
    if "limits_of" in policy:
        yield "  limits of this caller:"
    states = [result["limits"] for result in results]
    for index, limit in enumerate(policy["limits"]):
        yield f"  {_describe_limit(limit)}"
        if states:
            yield f"    {_describe_state(states[0][index])}"
    if "key_error" in policy:
        yield f"  state unknown, the key cannot be made: {policy['key_error']}"
    elif policy["status"] is None:
        yield f"  state unknown, the store failed: {policy['store_error']}"


def _describe_limit(limit: Mapping[str, Any]) -> str:
    if "concurrency" in limit:
        return f"{limit['concurrency']} at a time"
    burst = f", burst {limit['burst']}" if limit["burst"] != limit["limit"] else ""
    if "unit" in limit:
        first = "" if limit["anchor"] is None else f" from {limit['anchor']} on"
        period = f"{limit['unit']} of {limit['timezone']}{first}"
    else:
        period = f"{limit['seconds']:.12g} s"
    return f"{limit['limit']} per {period}{burst}, {limit['algorithm']}"


def _describe_state(state: Mapping[str, Any]) -> str:
    wait = state["retry_after_seconds"]
    rejected = f", rejected for {wait:.1f} s" if wait else ""
    return f"{state['remaining']} left{rejected}"


@dataclass(frozen=True, slots=True)
class ExplainedRequest:
    """Request to explain, as `parse_request` returns it."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    client_address: str
    principal: Principal | None


def parse_request(
    method: str,
    path: str,
    *,
    headers: Iterable[str] = (),
    client_address: str = DEFAULT_ADDRESS,
    principal: str | None = None,
    tier: str = "",
) -> ExplainedRequest:
    """Return the request that the command line or the admin port describes.

    Args:
        method: Method of the request in any case, or WEBSOCKET.
        path: Path of the request as in its URL, without a query.
        headers: Header lines of the request, as `Name: value`. A name may be repeated.
        client_address: Address of the client or of the last proxy.
        principal: Caller to explain for; by default the one that the headers identify.
        tier: Tier of that principal; empty for none.

    Raises:
        ConfigError: An argument is invalid; the message says what to write.
    """
    if (upper := method.upper()) not in METHODS:
        raise ConfigError(f"{method} is no method: write one of {', '.join(sorted(METHODS))}")
    if not path.startswith("/") or set("?#") & set(path):
        raise ConfigError(f"{path!r} is not a path: write one without a query, such as /items/1")
    if principal == "":
        raise ConfigError("the principal is empty: write its name, or leave it out")
    if tier and principal is None:
        raise ConfigError("a tier belongs to a principal: write the principal too, or no tier")
    lines = tuple(_parse_header(line) for line in headers)
    caller = Principal(principal, tier) if principal is not None else None
    # As a server decodes it before routing.
    return ExplainedRequest(upper, unquote(path), lines, client_address, caller)


def _parse_header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or not HEADER_NAME.fullmatch(name.strip()):
        # Without the line, which may be a credential.
        raise ConfigError("a header has no name: write 'Name: value'")
    return name.strip().lower(), value.strip()


async def explain(
    http_limiter: HTTPLimiter,
    match_route: Callable[[Scope], RouteInfo],
    request: ExplainedRequest,
) -> dict[str, Any]:
    """Explain a request without spending anything.

    Args:
        http_limiter: Limiter whose policies and identity section apply.
        match_route: Function that returns the route of a request that the app has not received yet.
        request: The request.

    Returns:
        The route, the identity (the principal's name, but no credential), and each policy with its
        limits and, if the store replies, their state.

    Raises:
        ConfigError: The state in the store is not that of the fleet's callers: its replicas use
            another key secret, or there is no fleet.
    """
    store_error = key_error = None
    try:
        await http_limiter.limiter.membership.require_fleet()
    except StoreError as error:
        store_error = error.kind
    method, path = request.method, request.path
    raw = [(name.encode(), value.encode()) for name, value in request.headers]
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"",
        "headers": raw,
        "client": (request.client_address, 0),
    }
    identity = await http_limiter.identifier.identify(scope)
    if request.principal is not None:
        identity = Identity(identity.client_address, request.principal)
    headers = join_headers(scope, {name for name, _ in request.headers})
    route = match_route(scope)
    subject = Subject(
        identity.client_address,
        identity.principal,
        route.name,
        headers,
        unverified=identity.error is not None,
    )
    applicable = select_policies(
        http_limiter,
        checked_dependencies(route),
        method,
        route.template,
        subject.tier,
        own_limits=route.own_limits,
    )
    policy_costs: Sequence[PolicyCost] = applicable.policy_costs
    if applicable.exemptions is not None:
        policy_costs = await applicable.exemptions.apply(policy_costs, subject, scope, http_limiter)
    if sources := applicable.key_sources_of(policy_costs):
        try:
            subject.key_values = await sources.resolve(
                scope, route, http_limiter.function_timeout_s
            )
        except Exception as error:  # noqa: BLE001 - a function of the app may raise anything
            key_error = f"{type(error).__name__}: {error}"
    return {
        "method": method,
        "path": path,
        "route": route.name,
        "identity": identity_to_dict(identity, http_limiter, subject),
        "key_secret": _key_secret(http_limiter.limiter, store_error),
        "policies": [
            _exempt_state(each.policy, subject)
            if each.exempt
            else await _current_state(http_limiter, each.policy, subject, store_error, key_error)
            for each in policy_costs
        ],
    }


def _key_secret(limiter: Limiter, store_error: str | None) -> dict[str, Any]:
    """Return the fingerprint of the key secret as JSON, after the comparison with the replicas'."""
    if not limiter.store.shared:
        compared = NO_REPLICAS
    elif store_error is not None:
        compared = f"not compared with that of the replicas, the store failed: {store_error}"
    else:
        compared = "that of the replicas"
    return {"fingerprint": limiter.key_scheme.fingerprint, "compared": compared}


def identity_to_dict(
    identity: Identity, http_limiter: HTTPLimiter, subject: Subject
) -> dict[str, Any]:
    """Return the identity as JSON."""
    principal = identity.principal
    return {
        "principal": principal.name if principal else None,
        "tier": principal.tier if principal else None,
        "source": principal.source if principal else None,
        "client_address": identity.client_address,
        "subject": http_limiter.limiter.subject_hash(subject),
        "error": identity.error.reason if identity.error else None,
    }


def _exempt_state(policy: Policy, subject: Subject) -> dict[str, Any]:
    result = {"mode": policy.mode, "outcome": Outcome.EXEMPT, "limits": []}
    return {**policy_to_dict(policy, subject.tier), "status": [result]}


async def _current_state(
    http_limiter: HTTPLimiter,
    policy: Policy,
    subject: Subject,
    store_error: str | None,
    key_error: str | None,
) -> dict[str, Any]:
    description = policy_to_dict(policy, subject.tier)
    if key_error is not None:
        return {**description, "status": None, "key_error": key_error}
    if store_error is not None:
        return {**description, "status": None, "store_error": store_error}
    try:
        decision = await http_limiter.limiter.peek(policy, subject=subject)
    except StoreError as error:
        return {**description, "status": None, "store_error": error.kind}
    if decision.results and decision.results[0].is_own:
        own = [limit_to_dict(quota) for quota in decision.results[0].quotas]
        description = {**description, "limits": own, "limits_of": "caller"}
    return {**description, "status": [_result_to_dict(result) for result in decision.results]}


def _result_to_dict(result: PolicyResult) -> dict[str, Any]:
    states = [
        _state_to_dict(limit.quota.name, limit.status)
        for limit in result.limits
        if limit.status is not None
    ]
    return {"mode": result.mode, "outcome": result.outcome, "limits": states}


def _state_to_dict(name: str, status: BucketStatus) -> dict[str, Any]:
    return {
        "name": name,
        "remaining": status.remaining,
        "retry_after_seconds": status.retry_after_us / SECOND_US,
        "reset_seconds": status.reset_after_us / SECOND_US,
    }
