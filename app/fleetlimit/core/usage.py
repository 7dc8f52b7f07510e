"""Cost that a large language model's answer states: its provider, and the estimate up front."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from operator import index
from typing import Final, Literal

from fleetlimit.core.counted_statuses import CountedStatuses
from fleetlimit.core.quota import MAX_SAFE_INTEGER, Quota, parse_enum
from fleetlimit.errors import ConfigError

DEFAULT_ESTIMATE: Final = 1_000
"""Tokens that are reserved for a request that states no maximum."""
MAX_REQUEST_BYTES: Final = 1_048_576
"""Largest default body of a request that is read for its maximum. It is held in memory until the
app reads it, and prompts of text are smaller."""


class Provider(StrEnum):
    """API whose format a request and its answer have."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"


ProviderName = Literal["openai", "anthropic"]
"""Value of a `Provider`, as code writes it."""


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Usage:
    """Cost of a request in tokens, which the answer of a large language model states.

    Args:
        provider: Format of the requests and the answers. `openai`: Chat Completions, Completions,
            Embeddings and Responses of OpenAI, and the many servers with the same API.
            `anthropic`: Messages of Anthropic.
        estimate: Tokens that are reserved for a request that states no maximum of its output; by
            default 1,000, or the most that the limit holds if that is less.
        max_request_bytes: Largest body of a request that is read for that maximum; for a larger
            one `estimate` is reserved.

    Raises:
        ConfigError: The provider is not known, or a number is not in its range.
    """

    provider: Provider
    estimate: int | None
    max_request_bytes: int

    def __init__(
        self,
        provider: Provider | ProviderName,
        *,
        estimate: int | None = None,
        max_request_bytes: int = MAX_REQUEST_BYTES,
    ) -> None:
        put = object.__setattr__
        put(self, "provider", parse_enum(Provider, provider))
        put(self, "estimate", None if estimate is None else _whole("estimate", estimate, 1))
        put(self, "max_request_bytes", _whole("max_request_bytes", max_request_bytes, 0))

    def __repr__(self) -> str:
        words = [repr(self.provider.value)]
        words += [f"estimate={self.estimate}"] if self.estimate is not None else []
        if self.max_request_bytes != MAX_REQUEST_BYTES:
            words.append(f"max_request_bytes={self.max_request_bytes}")
        return f"Usage({', '.join(words)})"

    def estimated(self, stated: int | None) -> int:
        """Return the tokens to reserve for a request.

        Args:
            stated: Largest number of output tokens that the request states; None without.
        """
        if stated is not None:
            return stated
        return DEFAULT_ESTIMATE if self.estimate is None else self.estimate


def _whole(name: str, value: object, least: int) -> int:
    try:
        whole = int(index(value))  # type: ignore[arg-type]  # the error is reported below
    except TypeError:
        whole = -1
    if isinstance(value, bool) or not least <= whole <= MAX_SAFE_INTEGER:
        raise ConfigError(f"{name} is a whole number from {least}, not {value!r}")
    return whole


def largest_cost(quotas: Iterable[Quota]) -> int:
    """Return the largest cost that full buckets of these quotas admit."""
    return min(quota.burst // quota.cost for quota in quotas)


def require_settleable(
    name: str,
    count: CountedStatuses | None,
    cost: object,
    quota_sets: Iterable[Iterable[Quota]],
    *,
    has_leases: bool,
    methods: Collection[str] = (),
) -> None:
    """Check that the status or the answer can correct the cost under a policy.

    Args:
        name: Name of the policy.
        count: Statuses that count; None for all.
        cost: `Usage` of the policy; None for a cost that code gives.
        quota_sets: Quotas of each tier.
        has_leases: Whether one of them is a concurrency limit.
        methods: Methods that the policy matches; empty for all.

    Raises:
        ConfigError: It cannot; the message says what to write.
    """
    if cost is not None and not isinstance(cost, Usage):
        raise ConfigError(
            f"cost={cost!r} is not the cost of a policy: write cost=Usage('openai'), or a fixed "
            "cost into the limits"
        )
    if has_leases:
        word = "cost" if count is None else "count"
        raise ConfigError(
            f"policy {name} has `{word}` and a concurrency limit, whose units are held until the "
            "request ends: write the concurrency limit into a policy of its own"
        )
    if cost is not None and methods and set(methods) <= {"WEBSOCKET"}:
        raise ConfigError(
            f"policy {name} reads its cost from the answer, and a WebSocket has none: match "
            "another method, such as POST"
        )
    largest = min(largest_cost(quotas) for quotas in quota_sets)
    if cost is not None and cost.estimate is not None and cost.estimate > largest:
        raise ConfigError(
            f"policy {name} reserves an estimate of {cost.estimate}, and a limit holds {largest}: "
            f"write an estimate from 1 to {largest}"
        )
