"""Exemptions of a request, by lists and by functions of the app.

A function that fails does not exempt: the request is limited, and the failure is logged.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from starlette.types import Scope

from fleetlimit.core.exemption import Exemption, ExemptionSource
from fleetlimit.core.policy import Policy
from fleetlimit.core.policy_function import PolicyFunction
from fleetlimit.core.subject import Subject
from fleetlimit.limiter.app_function import call_function, require_function
from fleetlimit.limiter.plan import PolicyCost, is_exempt
from fleetlimit.web.http_limiter import HTTPLimiter
from fleetlimit.web.request_values import get_connection

_ROLE: Final = "exempt function"


def require_exempt_function(exempt: ExemptionSource | None) -> None:
    """Check that the function of an exemption can be called with a connection.

    Raises:
        ConfigError: It cannot; the message says what to write.
    """
    if isinstance(exempt, PolicyFunction):
        require_function(
            exempt.call, role=_ROLE, returns=(bool,), example="def exempt(connection) -> bool"
        )


@dataclass(frozen=True, slots=True)
class Exemptions:
    """Exemptions from some policies.

    Args:
        everywhere: Function that exempts a request from all policies; None without.
        exemption: Lists that exempt a request from all policies; None without.
        needs_address: Whether a list has networks.
    """

    everywhere: PolicyFunction | None
    exemption: Exemption | None
    needs_address: bool

    @classmethod
    def of(cls, policies: Iterable[Policy], http_limiter: HTTPLimiter) -> "Exemptions | None":
        """Return the exemptions from these policies; None if there is none."""
        own = [policy.exempt for policy in policies if policy.exempt is not None]
        everywhere, exemption = http_limiter.exempt_function, http_limiter.limiter.exemption
        if not own and everywhere is None and exemption is None:
            return None
        lists = [each for each in (exemption, *own) if isinstance(each, Exemption)]
        return cls(everywhere, exemption, any(each.networks for each in lists))

    async def apply(
        self,
        policy_costs: Sequence[PolicyCost],
        subject: Subject,
        scope: Scope,
        http_limiter: HTTPLimiter,
    ) -> Sequence[PolicyCost]:
        """Return the policies with those marked that do not limit the request.

        It sets the exact address of the subject if a list has networks.

        Args:
            policy_costs: The policies that apply to the request.
            subject: The caller and the route.
            scope: ASGI scope of the request.
            http_limiter: Limiter of the request.
        """
        if self.needs_address:
            subject.exact_address = http_limiter.exact_address(scope)
        calls = _Calls(scope, http_limiter)
        if self.everywhere is not None and await calls.is_true(self.everywhere):
            return [replace(each, exempt=True) for each in policy_costs]
        marked = list(policy_costs)
        for index, each in enumerate(policy_costs):
            policy = each.policy
            if is_exempt(policy, subject, self.exemption) or (
                isinstance(policy.exempt, PolicyFunction) and await calls.is_true(policy.exempt)
            ):
                marked[index] = replace(each, exempt=True)
        return marked if any(each.exempt for each in marked) else policy_costs


class _Calls:
    """Results of the exempt functions for one request; each function is called once."""

    def __init__(self, scope: Scope, http_limiter: HTTPLimiter) -> None:
        self._scope = scope
        self._http_limiter = http_limiter
        self._results: dict[PolicyFunction, bool] = {}

    async def is_true(self, function: PolicyFunction) -> bool:
        """Return whether a function exempts the request."""
        if function not in self._results:
            self._results[function] = await self._call(function)
        return self._results[function]

    async def _call(self, function: PolicyFunction) -> bool:
        try:
            returned = await call_function(
                function.call,
                get_connection(self._scope),
                _ROLE,
                self._http_limiter.function_timeout_s,
            )
            return _check_answer(function, returned)
        except Exception as error:  # noqa: BLE001 - it must not exempt the request
            self._http_limiter.failure_log.write("exempt.failed", error)
            return False


def _check_answer(function: PolicyFunction, returned: Any) -> bool:
    if not isinstance(returned, bool):
        raise TypeError(
            f"the exempt function {function.name} returned {type(returned).__name__}, which "
            "exempts nothing: return True or False"
        )
    return returned
