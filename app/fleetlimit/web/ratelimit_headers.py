"""Response headers about limits: RateLimit, Retry-After, and the older X-RateLimit headers.

`draft-11` is draft-ietf-httpapi-ratelimit-headers-11: two Structured Fields (RFC 9651), each one
list with an item for each limit. `q` is the capacity of a full bucket and `w` the time in which it
refills, so that `q`/`w` is the rate and `r` is never above `q`; `t` is the time until more than `r`
is available. Clients see nothing of a policy in shadow mode.
"""

from collections.abc import Iterable
from enum import StrEnum
from functools import lru_cache
from typing import Final

from fleetlimit.core.decision import Decision, ceil_seconds
from fleetlimit.core.policy import Mode
from fleetlimit.core.quota import Algorithm, Quota

Headers = list[tuple[str, str]]
RawHeaders = list[tuple[bytes, bytes]]
"""Headers as ASGI represents them."""


class HeaderFormat(StrEnum):
    """Format of the limit headers; `x-ratelimit-epoch` gives the reset as a Unix time."""

    DRAFT_11 = "draft-11"
    X_RATELIMIT = "x-ratelimit"
    X_RATELIMIT_EPOCH = "x-ratelimit-epoch"
    NONE = "none"


# Read in every request: see `ALLOWED` in `core/decision.py`.
_DRAFT_11: Final = HeaderFormat.DRAFT_11
_SHADOW: Final = Mode.SHADOW
_X_RATELIMIT_NAMES: Final = (
    "X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, Retry-After"
)
EXPOSED_HEADERS = {
    HeaderFormat.DRAFT_11: "RateLimit, RateLimit-Policy, Retry-After",
    HeaderFormat.X_RATELIMIT: _X_RATELIMIT_NAMES,
    HeaderFormat.X_RATELIMIT_EPOCH: _X_RATELIMIT_NAMES,
    HeaderFormat.NONE: "Retry-After",
}
"""Value of `Access-Control-Expose-Headers` that lets a browser's script read the headers."""


def retry_after(decision: Decision) -> str:
    """Return the value of Retry-After: whole seconds, rounded up, at least 1 (RFC 9110, 10.2.3)."""
    return str(max(1, ceil_seconds(decision.retry_after_us)))


def limit_headers(
    decision: Decision, header_format: HeaderFormat, *, unix_seconds: int = 0
) -> Headers:
    """Return the headers that state a decision's limits.

    Args:
        decision: Decision about the request.
        header_format: Format of the headers.
        unix_seconds: Current Unix time, for `x-ratelimit-epoch`.
    """
    if header_format is _DRAFT_11:
        return _draft_11(decision)
    if header_format is HeaderFormat.NONE:
        return []
    is_epoch = header_format is HeaderFormat.X_RATELIMIT_EPOCH
    return _x_ratelimit(decision, unix_seconds if is_epoch else 0)


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
                until_more = f";t={ceil_seconds(next_us)}" if next_us else ""
                states.append(f"{names[index]};r={status.remaining}{until_more}")
    headers = []
    if policies:
        headers.append(("RateLimit-Policy", ", ".join(policies)))
    if states:
        headers.append(("RateLimit", ", ".join(states)))
    return headers


@lru_cache(1_024)
def _policy_item(policy: str, quotas: tuple[Quota, ...]) -> tuple[str, list[str]]:
    """Return a policy's items of RateLimit-Policy, and the name of each of its limits."""
    alone = len(quotas) == 1
    names = [f'"{policy}"' if alone else f'"{policy}.{quota.name}"' for quota in quotas]
    items = [
        f"{name};q={quota.burst}{_window(quota)}" for name, quota in zip(names, quotas, strict=True)
    ]
    return ", ".join(items), names


def _window(quota: Quota) -> str:
    if quota.algorithm is Algorithm.CONCURRENCY:
        return ';qu="concurrent-requests"'
    return f";w={ceil_seconds(quota.refill_us)}"


def _x_ratelimit(decision: Decision, unix_seconds: int) -> Headers:
    """State the most restrictive limit: the longest wait, or else the fewest remaining units."""
    visible = [result.limits for result in decision.results if result.mode is not Mode.SHADOW]
    known = [(limit.quota, limit.status) for limits in visible for limit in limits if limit.status]
    if not known:
        return []
    quota, status = min(known, key=lambda each: (-each[1].retry_after_us, each[1].remaining))
    reset_us = status.reset_after_us if status.allowed else status.next_unit_after_us
    return [
        ("X-RateLimit-Limit", str(quota.burst)),
        ("X-RateLimit-Remaining", str(status.remaining)),
        ("X-RateLimit-Reset", str(unix_seconds + ceil_seconds(reset_us))),
    ]


def encode_headers(headers: Iterable[tuple[str, str]]) -> RawHeaders:
    """Return headers as ASGI represents them."""
    return [_encode_header(each) for each in headers]


def merge_headers(existing: Iterable[tuple[bytes, bytes]], replacing: RawHeaders) -> RawHeaders:
    """Return the existing headers, with those of the same names replaced, and the new ones."""
    names = dict(replacing)
    return [*[each for each in existing if each[0] not in names], *replacing]


@lru_cache(1_024)
def _encode_header(header: tuple[str, str]) -> tuple[bytes, bytes]:
    name, value = header
    return name.lower().encode(), value.encode("latin-1")
