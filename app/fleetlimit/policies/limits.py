"""The two ways to write a limit: so many units per period, or so many at the same time."""

from typing import Annotated, Any

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from fleetlimit.core.quota import (
    DEFAULT_LEASE_US,
    SECOND_US,
    Algorithm,
    Quota,
    concurrency_quota,
    parse_rate,
    rate_quota,
)
from fleetlimit.policies.section import MayBeAbsent, Section, Whole

RATE_LIMIT = "(rate limit)"
CONCURRENCY_LIMIT = "(concurrency limit)"


def _rate(text: str) -> str:
    parse_rate(text)
    return text


Rate = Annotated[str, AfterValidator(_rate)]


class RateLimit(Section):
    """So many units per period."""

    rate: Rate = Field(
        description="Units per period: 100/second, 100/minute, 100/hour, 100/day or 100 per 90 s."
    )
    burst: MayBeAbsent[Whole] = Field(
        None,
        description="Most units at one instant, for token_bucket only; left out, the rate's own "
        "number.",
    )
    algorithm: Algorithm = Field(Algorithm.TOKEN_BUCKET, description="How the limit counts.")
    cost: Whole = Field(1, description="Units that one unit of a request's cost spends.")

    @model_validator(mode="after")
    def _possible(self) -> "RateLimit":
        self.quota()
        return self

    def quota(self) -> Quota:
        """Return the limit in integers."""
        return rate_quota(self.rate, burst=self.burst, algorithm=self.algorithm, cost=self.cost)


class ConcurrencyLimit(Section):
    """So many units held at the same time."""

    concurrency: Whole = Field(description="Units held at the same time.")
    lease: Whole = Field(
        DEFAULT_LEASE_US // SECOND_US,
        description="Seconds after which a replica that died gives back what it held.",
    )
    cost: Whole = Field(1, description="Units that one unit of a request's cost holds.")

    @model_validator(mode="after")
    def _possible(self) -> "ConcurrencyLimit":
        self.quota()
        return self

    def quota(self) -> Quota:
        """Return the limit in integers."""
        return concurrency_quota(self.concurrency, lease_us=self.lease * SECOND_US, cost=self.cost)


def _kind_of_limit(value: Any) -> str | None:
    if not isinstance(value, dict):
        return None
    return CONCURRENCY_LIMIT if "concurrency" in value else RATE_LIMIT


Limit = Annotated[
    Annotated[RateLimit, Tag(RATE_LIMIT)] | Annotated[ConcurrencyLimit, Tag(CONCURRENCY_LIMIT)],
    Discriminator(_kind_of_limit),
]
