"""Asks the logs, in LogQL, who the callers are: identities are in no metric."""

from typing import Final

from fleetlimit.telemetry import names

EVENT: Final = "event"
CALLER: Final = "subject"
"""Field of a denial's line that holds the caller's hash."""
HELD_BACK: Final = "suppressed"
"""Field of the line that says how many denials have none of their own."""

_LINES: Final = '{namespace=~"$namespace", pod=~".+"}'
_MOST: Final = 10


def denied_most(event: str) -> str:
    """Return the callers with the most denials in the time looked at, with exact numbers.

    Args:
        event: `request.denied`, or `request.shadow_denied` for those that would be.
    """
    held_back = event + names.SUPPRESSED
    denials = (
        f"{_LINES} |= `{event}` | json | {EVENT}=~`{_literal(event)}|{_literal(held_back)}`"
        f" | {names.POLICY}=~`$policy`"
        f' | label_format denials=`{{{{ or .{HELD_BACK} "1" }}}}` | unwrap denials | __error__=``'
    )
    summed = f"sum by ({names.POLICY}, {CALLER}) (sum_over_time({denials} [$__range]))"
    return f"topk({_MOST}, {summed})"


def lines_of_policy(policy: str) -> str:
    """Return the lines about requests that a policy refused, or would have.

    Args:
        policy: The policy's name, or a placeholder of Grafana for it.
    """
    # The names of policies hold nothing that would have to be escaped.
    return (
        f'{{namespace=~"${{namespace:regex}}", pod=~".+"}} |= `request.` | json'
        f" | {names.POLICY}=`{policy}`"
    )


def lines_of_caller(caller: str) -> str:
    """Return the lines about a caller.

    Args:
        caller: The caller's hash, or a placeholder of Grafana for it.
    """
    return (
        f'{{namespace=~"${{namespace:regex}}", pod=~".+"}} |= `{caller}` | json'
        f" | {CALLER}=`{caller}`"
    )


def _literal(text: str) -> str:
    return text.replace(".", "[.]")
