"""Which policies would hold one request, by what key, and how their limits stand."""

from collections.abc import Iterator, Mapping
from typing import Any

from fleetlimit.bootstrap.route_report import describe, own_limits
from fleetlimit.core.decision import PolicyResult, Verdict
from fleetlimit.core.policy import ALL_PERCENT, Policy
from fleetlimit.core.quota import SECOND_US
from fleetlimit.core.subject import UNMATCHED_ROUTE, Identity, Subject
from fleetlimit.errors import StoreError
from fleetlimit.web.http_limiter import Gate
from fleetlimit.web.route_table import Entry, RouteTable


def render(told: Mapping[str, Any]) -> str:
    """Return what `explain` told as lines of at most 80 columns, names of usual length assumed."""
    return "\n".join(_lines(told))


def _lines(told: Mapping[str, Any]) -> Iterator[str]:
    who = told["identity"]
    yield f"{told['method']} {told['path']} is route {told['route']}"
    tier = f", tier {who['tier']}" if who["tier"] else ""
    yield f"from {who['principal'] or who['client_address']}{tier}, subject {who['subject']}"
    if who["error"]:
        yield f"its credential is not accepted: {who['error']}"
    for policy in told["policies"]:
        yield ""
        yield from _policy(policy)
    if not told["policies"]:
        yield "no policy holds it: it is not limited"


def _policy(policy: Mapping[str, Any]) -> Iterator[str]:
    mode = policy["mode"]
    if policy["enforce_percent"] < ALL_PERCENT:
        mode = f"{mode} for {policy['enforce_percent']} % of the keys"
        mode += "".join(f", {result['mode']} for this one" for result in policy["standing"] or ())
    yield f"policy {policy['name']}: {mode}"
    yield f"  per {', '.join(policy['key'])}; {policy['on_store_error']} while the store is away"
    figures = [result["limits"] for result in policy["standing"] or ()]
    for place, limit in enumerate(policy["limits"]):
        yield f"  {_limit(limit)}"
        if figures:
            yield f"    {_describe_state(figures[0][place])}"
    if policy["standing"] is None:
        yield f"  the store does not tell how it stands: {policy['store_error']}"


def _limit(limit: Mapping[str, Any]) -> str:
    if "concurrency" in limit:
        return f"{limit['concurrency']} at a time"
    burst = f", burst {limit['burst']}" if limit["burst"] != limit["limit"] else ""
    return f"{limit['limit']} per {limit['seconds']:g} s{burst}, {limit['algorithm']}"


def _describe_state(figures: Mapping[str, Any]) -> str:
    wait = figures["retry_after_seconds"]
    later = f", refused for {wait:.1f} s" if wait else ""
    return f"{figures['remaining']} left{later}"


async def explain(
    gate: Gate,
    routes: RouteTable,
    *,
    method: str,
    path: str,
    headers: Mapping[str, str],
    peer: str = "127.0.0.1",
) -> dict[str, Any]:
    """Explain a request without spending anything.

    Args:
        gate: Decides.
        routes: The app's routes.
        method: The request's method.
        path: Its path.
        headers: Its headers.
        peer: The address it comes from.

    Returns:
        The route, the identity (the principal's name is shown, credentials are not), and each
        policy with its limits; the limits' standing where the store answers.
    """
    method = method.upper()
    lowered = {name.lower(): value for name, value in headers.items()}
    entry = routes.find(method, path, lowered.get("host", ""))
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    identity = await gate.identifier.identify(
        {"type": "http", "method": method, "path": path, "headers": raw, "client": (peer, 0)}
    )
    policies = _policies(gate, entry, method, identity)
    subject = Subject(identity.client_address, identity.principal, entry.name, lowered)
    return {
        "method": method,
        "path": path,
        "route": entry.name,
        "identity": describe_identity(identity, gate, subject),
        "policies": [await _standing(gate, policy, subject) for policy in policies],
    }


def _policies(gate: Gate, entry: Entry, method: str, identity: Identity) -> list[Policy]:
    tier = identity.principal.tier if identity.principal else ""
    book = gate.limiter.policies.current
    template = entry.template or UNMATCHED_ROUTE
    found = {policy.name: policy for policy in book.select(method, template, tier)}
    return list((found | own_limits(entry, gate)).values())


def describe_identity(identity: Identity, gate: Gate, subject: Subject) -> dict[str, Any]:
    """Return the identity as JSON."""
    principal = identity.principal
    return {
        "principal": principal.name if principal else None,
        "tier": principal.tier if principal else None,
        "source": principal.source if principal else None,
        "client_address": identity.client_address,
        "subject": gate.limiter.subject_hash(subject),
        "error": identity.error.reason if identity.error else None,
    }


async def _standing(gate: Gate, policy: Policy, subject: Subject) -> dict[str, Any]:
    told = describe(policy, subject.tier)
    try:
        decision = await gate.limiter.peek(policy, subject=subject)
    except StoreError as error:
        return {**told, "standing": None, "store_error": error.kind}
    return {**told, "standing": [_stand(result) for result in decision.results]}


def _stand(result: PolicyResult) -> dict[str, Any]:
    figures = [
        _figures(limit.quota.name, limit.verdict)
        for limit in result.limits
        if limit.verdict is not None
    ]
    return {"mode": result.mode, "outcome": result.outcome, "limits": figures}


def _figures(name: str, verdict: Verdict) -> dict[str, Any]:
    return {
        "name": name,
        "remaining": verdict.remaining,
        "retry_after_seconds": verdict.retry_us / SECOND_US,
        "reset_seconds": verdict.reset_us / SECOND_US,
    }
