"""An explanation of a request as text for a terminal, a block for each policy."""

from collections.abc import Iterator, Mapping
from typing import Any

from fleetlimit.core.policy import ALL_PERCENT


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
            yield f"    {_standing(figures[0][place])}"
    if policy["standing"] is None:
        yield f"  the store does not tell how it stands: {policy['store_error']}"


def _limit(limit: Mapping[str, Any]) -> str:
    if "concurrency" in limit:
        return f"{limit['concurrency']} at a time"
    burst = f", burst {limit['burst']}" if limit["burst"] != limit["limit"] else ""
    return f"{limit['limit']} per {limit['seconds']:g} s{burst}, {limit['algorithm']}"


def _standing(figures: Mapping[str, Any]) -> str:
    wait = figures["retry_after_seconds"]
    later = f", refused for {wait:.1f} s" if wait else ""
    return f"{figures['remaining']} left{later}"
