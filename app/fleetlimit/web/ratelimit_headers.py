"""What a response says of the limits: RateLimit fields, Retry-After and their older kin.

`draft-11` is draft-ietf-httpapi-ratelimit-headers-11: two Structured Fields (RFC 9651), each one
list with a member for each limit. `q` is what a full bucket holds and `w` the time in which it
fills, so that `q`/`w` is the rate and `r` is never above `q`; `t` is the time until more than `r`
is available. A policy in shadow is nothing to clients.
"""

from collections.abc import Iterable
from enum import StrEnum
from functools import lru_cache
from typing import Final

from fleetlimit.core.decision import Decision
from fleetlimit.core.policy import Mode
from fleetlimit.core.quota import SECOND_US, Algorithm, Quota

Headers = list[tuple[str, str]]
_SHADOW: Final = Mode.SHADOW


class HeaderFormat(StrEnum):
    """How the limits are told to clients; `x-ratelimit-epoch` gives the reset as a Unix time."""

    DRAFT_11 = "draft-11"
    X_RATELIMIT = "x-ratelimit"
    X_RATELIMIT_EPOCH = "x-ratelimit-epoch"
    NONE = "none"


_DRAFT_11: Final = HeaderFormat.DRAFT_11
EXPOSED_HEADERS = {
    HeaderFormat.DRAFT_11: "RateLimit, RateLimit-Policy, Retry-After",
    HeaderFormat.X_RATELIMIT: (
        "X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, Retry-After"
    ),
    HeaderFormat.X_RATELIMIT_EPOCH: (
        "X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, Retry-After"
    ),
    HeaderFormat.NONE: "Retry-After",
}
"""What `Access-Control-Expose-Headers` must name for a browser's script to see it."""


def seconds(micros: int) -> int:
    """Return whole seconds, rounded up."""
    return -(-micros // SECOND_US)


def retry_after(decision: Decision) -> str:
    """Return the value of Retry-After: whole seconds, rounded up, at least 1 (RFC 9110, 10.2.3)."""
    return str(max(1, seconds(decision.retry_after_us)))


def limit_headers(
    decision: Decision, header_format: HeaderFormat, *, unix_seconds: int = 0
) -> Headers:
    """Return the fields that tell a client how its limits stand.

    Args:
        decision: What was decided.
        header_format: How to tell it.
        unix_seconds: The time, for the dialect that gives the reset as a time.
    """
    if header_format is _DRAFT_11:
        return _draft_11(decision)
    if header_format is HeaderFormat.NONE:
        return []
    return _x_ratelimit(
        decision, unix_seconds if header_format is HeaderFormat.X_RATELIMIT_EPOCH else 0
    )


def _draft_11(decision: Decision) -> Headers:
    policies, states = [], []
    for result in decision.results:
        if result.mode is _SHADOW or not result.quotas:
            continue
        item, names = _policy_item(result.policy, result.quotas)
        policies.append(item)
        for index, status in enumerate(result.statuses):
            if status is not None:
                next_us = status.next_unit_after_us
                until_more = f";t={seconds(next_us)}" if next_us else ""
                states.append(f"{names[index]};r={status.remaining}{until_more}")
    headers = []
    if policies:
        headers.append(("RateLimit-Policy", ", ".join(policies)))
    if states:
        headers.append(("RateLimit", ", ".join(states)))
    return headers


@lru_cache(1_024)
def _policy_item(policy: str, quotas: tuple[Quota, ...]) -> tuple[str, list[str]]:
    """Return what is told of a policy's limits whatever was decided, and how each is named."""
    alone = len(quotas) == 1
    names = [f'"{policy}"' if alone else f'"{policy}.{quota.name}"' for quota in quotas]
    items = [
        f"{name};q={quota.burst}{_window(quota)}" for name, quota in zip(names, quotas, strict=True)
    ]
    return ", ".join(items), names


def _window(quota: Quota) -> str:
    if quota.algorithm is Algorithm.CONCURRENCY:
        return ';qu="concurrent-requests"'
    return f";w={seconds(quota.refill_us)}"


def _x_ratelimit(decision: Decision, unix_seconds: int) -> Headers:
    """Tell the limit that binds: the one that refuses longest, or has least left."""
    visible = [result.limits for result in decision.results if result.mode is not Mode.SHADOW]
    known = [(each.quota, each.status) for limits in visible for each in limits if each.status]
    if not known:
        return []
    quota, status = min(known, key=lambda each: (-each[1].retry_after_us, each[1].remaining))
    reset_us = status.next_unit_after_us if not status.allowed else status.reset_after_us
    return [
        ("X-RateLimit-Limit", str(quota.burst)),
        ("X-RateLimit-Remaining", str(status.remaining)),
        ("X-RateLimit-Reset", str(unix_seconds + seconds(reset_us))),
    ]


RawHeaders = list[tuple[bytes, bytes]]
"""Header fields as ASGI has them."""


def encode_headers(headers: Iterable[tuple[str, str]]) -> RawHeaders:
    """Return header fields as ASGI has them."""
    return [_encode_header(each) for each in headers]


def merge_headers(existing: Iterable[tuple[bytes, bytes]], replacing: RawHeaders) -> RawHeaders:
    """Return an app's fields and ours, in place of those of the same names."""
    names = dict(replacing)
    return [*[each for each in existing if each[0] not in names], *replacing]


@lru_cache(1_024)
def _encode_header(header: tuple[str, str]) -> tuple[bytes, bytes]:
    name, value = header
    return name.lower().encode(), value.encode("latin-1")
