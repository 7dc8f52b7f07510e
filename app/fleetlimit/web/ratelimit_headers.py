"""Response headers about limits: the RateLimit fields, Retry-After, and their encoding.

`draft-11` is draft-ietf-httpapi-ratelimit-headers-11: two Structured Fields (RFC 9651), each one
list with an item for each limit. `q` is the capacity of a full bucket and `w` the time in which it
refills, so that `q`/`w` is the rate and `r` is never above `q`; `t` is the time until more than `r`
is available. `draft-next` is the editors' copy of August 2026, in which `r` is `a` and `t` is `w`;
its optional parts (`c`, `pk` and the field RateLimit-Partition) are left out. Clients see nothing
of a policy in shadow mode. `header_layout.py` has the formats of other services.
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
    """Format of the limit headers.

    `draft-11` and `draft-next` are the RateLimit fields of the IETF. `github` and `openai` have the
    names and units of those services, and `x-ratelimit` the common older ones, with the reset in
    seconds; `x-ratelimit-epoch` gives it as a Unix time.
    """

    DRAFT_11 = "draft-11"
    DRAFT_NEXT = "draft-next"
    GITHUB = "github"
    OPENAI = "openai"
    X_RATELIMIT = "x-ratelimit"
    X_RATELIMIT_EPOCH = "x-ratelimit-epoch"
    NONE = "none"


# Read in every request: see `ALLOWED` in `core/decision.py`.
_SHADOW: Final = Mode.SHADOW


def retry_after(decision: Decision) -> str:
    """Return the value of Retry-After: whole seconds, rounded up, at least 1 (RFC 9110, 10.2.3)."""
    return str(max(1, ceil_seconds(decision.retry_after_us)))


def draft_headers(decision: Decision, available: str = "r", window: str = "t") -> Headers:
    """Return the RateLimit fields of a decision.

    Args:
        decision: Decision about the request.
        available: Name of the parameter with the available units.
        window: Name of the parameter with the seconds until there are more.
    """
    policies, states = [], []
    for result in decision.results:
        if result.mode is _SHADOW or not result.quotas:
            continue
        item, names = _policy_item(result.policy, result.quotas)
        policies.append(item)
        for index, status in enumerate(result.statuses):
            if status is not None:
                next_us = status.next_unit_after_us
                until_more = f";{window}={ceil_seconds(next_us)}" if next_us else ""
                states.append(f"{names[index]};{available}={status.remaining}{until_more}")
    headers = []
    if policies:
        headers.append(("RateLimit-Policy", ", ".join(policies)))
    if states:
        headers.append(("RateLimit", ", ".join(states)))
    return headers


@lru_cache(1_024)
def _policy_item(policy: str, quotas: tuple[Quota, ...]) -> tuple[str, list[str]]:
    """Return a policy's items of RateLimit-Policy, and the name of each of its limits."""
    names = [f'"{each}"' for each in limit_names(policy, quotas)]
    items = [
        f"{name};q={quota.burst}{_window(quota)}" for name, quota in zip(names, quotas, strict=True)
    ]
    return ", ".join(items), names


def _window(quota: Quota) -> str:
    if quota.algorithm is Algorithm.CONCURRENCY:
        return ';qu="concurrent-requests"'
    return f";w={ceil_seconds(quota.refill_us)}"


def limit_names(policy: str, quotas: tuple[Quota, ...]) -> list[str]:
    """Return the name of each limit of a policy, as clients see it."""
    alone = len(quotas) == 1
    return [policy if alone else f"{policy}.{quota.name}" for quota in quotas]


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
