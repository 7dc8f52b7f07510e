"""Functions of the app that return the limits of a request's caller: `RateLimit(function, ...)`.

A function that fails changes nothing: the default limits apply, and the failure is logged.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from starlette.types import Scope

from fleetlimit.core.policy import Mode, Policy
from fleetlimit.core.policy_function import PolicyFunction
from fleetlimit.core.quota import Quota
from fleetlimit.limiter.app_function import call_function, require_function
from fleetlimit.limiter.events import CallerLimitsFailed
from fleetlimit.limiter.own_limits import parse_own_limits
from fleetlimit.limiter.plan import PolicyCost
from fleetlimit.web.http_limiter import HTTPLimiter
from fleetlimit.web.request_values import get_connection

_ROLE: Final = "limits function"
_FAILED: Final[tuple[Quota, ...]] = ()
"""Answer of a call that failed; a function that succeeds returns at least one limit, or None."""


def require_limits_function(function: PolicyFunction | None) -> None:
    """Check that the function of a policy's limits can be called with a connection.

    Raises:
        ConfigError: It cannot; the message says what to write.
    """
    if function is not None:
        require_function(
            function.call, role=_ROLE, returns=(str, list, tuple), example="def limits(connection)"
        )


@dataclass(frozen=True, slots=True)
class LimitFunctions:
    """The functions of some policies' limits, by the index of the policy."""

    functions: tuple[tuple[int, PolicyFunction], ...]

    @classmethod
    def of(cls, policies: Iterable[Policy]) -> "LimitFunctions | None":
        """Return the functions of these policies; None if there is none."""
        found = tuple(
            (index, policy.limits_function)
            for index, policy in enumerate(policies)
            if policy.limits_function is not None and policy.mode is not Mode.OFF
        )
        return cls(found) if found else None

    async def apply(
        self, policy_costs: Sequence[PolicyCost], scope: Scope, http_limiter: HTTPLimiter
    ) -> Sequence[PolicyCost]:
        """Return the policies with the limits of the caller, where a function has returned some.

        Each function is called once.

        Args:
            policy_costs: The policies that apply to the request.
            scope: ASGI scope of the request.
            http_limiter: Limiter of the request.
        """
        resolved = [*policy_costs]
        answers: dict[PolicyFunction, tuple[Quota, ...] | None] = {}
        for index, function in self.functions:
            each = resolved[index]
            if each.exempt:
                continue
            if function not in answers:
                answers[function] = await _call(function, scope, http_limiter)
            quotas = answers[function]
            if quotas is _FAILED:
                http_limiter.limiter.emit(CallerLimitsFailed(each.policy.name))
            else:
                resolved[index] = replace(each, own_quotas=quotas)
        return resolved


async def _call(
    function: PolicyFunction, scope: Scope, http_limiter: HTTPLimiter
) -> tuple[Quota, ...] | None:
    """Return the limits of the caller, None for the default, or `_FAILED`."""
    timeout_s = http_limiter.function_timeout_s
    try:
        returned = await call_function(function.call, get_connection(scope), _ROLE, timeout_s)
        return parse_own_limits(returned, f"{_ROLE} {function.name}")
    except Exception as error:  # noqa: BLE001 - the default limits apply
        http_limiter.failure_log.write("limits.failed", error)
        return _FAILED
