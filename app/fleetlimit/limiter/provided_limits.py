"""Limits of callers from a provider of the app, such as a query of a database.

The answers are cached for some time. Concurrent misses of one caller under one policy are one call.
If a call fails, the last known answer applies, or without one the limits of the policy.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from fleetlimit.core.bounded_cache import BoundedCache
from fleetlimit.core.limit import Limit
from fleetlimit.core.policy import Mode
from fleetlimit.core.quota import SECOND_US, Quota
from fleetlimit.core.subject import Principal, Subject
from fleetlimit.errors import ConfigError
from fleetlimit.limiter.app_function import await_result, require_no_generator
from fleetlimit.limiter.events import CallerLimitsFailed, Event
from fleetlimit.limiter.failure_log import FailureLog
from fleetlimit.limiter.own_limits import can_have_own_limits, parse_own_limits, with_concurrency
from fleetlimit.limiter.plan import PolicyCost
from fleetlimit.limiter.ports import Clock

OwnLimits = str | Limit | Sequence[str | Limit] | None
"""Limits of one caller: a rate, a `Limit`, several of them, or None for those of the policy."""
LimitsProvider = Callable[[Principal, str], OwnLimits | Awaitable[OwnLimits]]
"""Function of a caller and the name of a policy that returns the caller's own limits."""
DEFAULT_TTL_S: Final = 60.0
MAX_CALLERS: Final = 10_000
"""Callers whose limits are cached, some 5 MB with two policies each."""
_MAX_ENTRIES: Final = 256
"""Cached answers of one caller: policies times tiers, of which a token may name any."""
_RETRY_US: Final = SECOND_US
"""How long the answer in place of a failed call is used, so that no check waits in between."""
_ROLE: Final = "limits provider"
_EXAMPLE: Final = "write `async def limits(principal, policy_name)`"
_Key = tuple[str, str, str]
"""Name and tier of the caller, and name of the policy."""


@dataclass(slots=True)
class _Answer:
    """Limits of a caller, None for those of the policy, and when to ask again."""

    quotas: tuple[Quota, ...] | None
    mono_expires_at_us: int


def require_limits_provider(provider: Any) -> None:
    """Check that a provider can be called with a caller and the name of a policy.

    Raises:
        ConfigError: It cannot; the message says what to write.
    """
    subject = f"limits={provider!r}"
    if not callable(provider) or isinstance(provider, type):
        raise ConfigError(f"{subject} is not a function: {_EXAMPLE}")
    require_no_generator(provider, subject)
    try:
        signature = inspect.signature(provider)
    except ValueError:
        # Python knows no signature of some built-in functions.
        return
    try:
        signature.bind(object(), object())
    except TypeError:
        raise ConfigError(f"{subject} cannot be called with two arguments: {_EXAMPLE}") from None


def _is_asked_for(each: PolicyCost) -> bool:
    """Return whether limits of the caller can replace those of a policy."""
    if each.exempt or each.own_quotas is not None or each.policy.mode is Mode.OFF:
        return False
    return can_have_own_limits(each.policy)


def _with_answers(
    costs: Sequence[PolicyCost], subject: Subject, answers: Mapping[str, _Answer]
) -> Sequence[PolicyCost]:
    """Return the policies with the limits of the answers, by policy; the same list without any."""
    resolved: list[PolicyCost] | None = None
    for index, each in enumerate(costs):
        answer = answers.get(each.policy.name)
        if answer is not None and answer.quotas is not None and _is_asked_for(each):
            own = with_concurrency(answer.quotas, each.policy, subject)
            resolved = resolved or [*costs]
            resolved[index] = replace(each, own_quotas=own)
    return costs if resolved is None else resolved


class ProvidedLimits:
    """Limits of verified callers.

    Args:
        provider: Function of the app.
        ttl_s: Seconds that an answer is used.
        timeout_s: Seconds that an async call may take; a plain function is not bounded.
        clock: Clock of this process.
        failure_log: Log of the provider's failures.
        emit: Receives an event for each failure.

    Raises:
        ConfigError: The provider cannot be called, or the time is not above 0.
    """

    def __init__(
        self,
        provider: LimitsProvider,
        *,
        ttl_s: float,
        timeout_s: float,
        clock: Clock,
        failure_log: FailureLog,
        emit: Callable[[Event], None],
    ) -> None:
        require_limits_provider(provider)
        if not 0 < ttl_s < float("inf"):
            raise ConfigError(f"limits_ttl={ttl_s!r} is no time: write seconds above 0, such as 60")
        self.provider: Final = provider
        self.ttl_s: Final = ttl_s
        self._timeout_s = timeout_s
        self._clock = clock
        self._failure_log = failure_log
        self._emit = emit
        self._answers: BoundedCache[str, dict[_Key, _Answer]] = BoundedCache(MAX_CALLERS)
        self._calls: dict[_Key, asyncio.Task[_Answer]] = {}
        # All calls in flight, also those that were invalidated and are awaited by no later check.
        self._tasks: set[asyncio.Task[_Answer]] = set()

    async def apply(self, costs: Sequence[PolicyCost], subject: Subject) -> Sequence[PolicyCost]:
        """Return the policies, with the caller's own limits where it has some.

        Args:
            costs: Policies of a check, each with its cost.
            subject: The caller and the route.
        """
        principal = subject.principal
        if principal is None:
            return costs
        answers: dict[str, _Answer] = {}
        for each in costs:
            name = each.policy.name
            if _is_asked_for(each):
                answers[name] = self._cached(principal, name) or await self._ask(principal, name)
        return _with_answers(costs, subject, answers)

    def apply_known(self, costs: Sequence[PolicyCost], subject: Subject) -> Sequence[PolicyCost]:
        """Return the same by the answers that are cached, without a call.

        Args:
            costs: As in `apply`.
            subject: As in `apply`.
        """
        principal = subject.principal
        if principal is None:
            return costs
        cached = self._answers.get(principal.name) or {}
        answers = {
            policy: answer for (_, tier, policy), answer in cached.items() if tier == principal.tier
        }
        return _with_answers(costs, subject, answers)

    def invalidate(self, principal: str | None = None) -> None:
        """Drop the answers for a caller, or all; calls that are in flight are not cached.

        Args:
            principal: Name of the caller; None for all.
        """
        if principal is None:
            self._answers.clear()
            self._calls.clear()
            return
        self._answers.discard(principal)
        for key in [key for key in self._calls if key[0] == principal]:
            del self._calls[key]

    def _cached(self, principal: Principal, policy: str) -> _Answer | None:
        answers = self._answers.get(principal.name)
        found = answers and answers.get((principal.name, principal.tier, policy))
        if not found or self._clock.monotonic_us() >= found.mono_expires_at_us:
            return None
        return found

    async def _ask(self, principal: Principal, policy: str) -> _Answer:
        key = (principal.name, principal.tier, policy)
        task = self._calls.get(key)
        if task is None:
            # Its own task: cancelling one request must not cancel the call of all.
            task = self._calls[key] = asyncio.ensure_future(self._call(key, principal))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _call(self, key: _Key, principal: Principal) -> _Answer:
        now_us = self._clock.monotonic_us
        try:
            returned = self.provider(principal, key[2])
            if inspect.isawaitable(returned):
                returned = await await_result(returned, _ROLE, self._timeout_s)
            quotas = parse_own_limits(returned, _ROLE)
            answer = _Answer(quotas, now_us() + round(self.ttl_s * SECOND_US))
        # A plain function may raise a `CancelledError` of its own.
        except (Exception, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            self._failure_log.write("limits.failed", error)
            self._emit(CallerLimitsFailed(key[2]))
            last = (self._answers.get(key[0]) or {}).get(key)
            answer = _Answer(last.quotas if last else None, now_us() + _RETRY_US)
        self._store(key, answer)
        return answer

    def _store(self, key: _Key, answer: _Answer) -> None:
        """Cache an answer, unless its call was invalidated meanwhile."""
        if self._calls.get(key) is not asyncio.current_task():
            return
        del self._calls[key]
        answers = self._answers.get(key[0])
        if answers is None or len(answers) >= _MAX_ENTRIES:
            answers = {}
            self._answers.put(key[0], answers)
        answers[key] = answer

    async def aclose(self) -> None:
        """Cancel the calls in flight."""
        calls = [*self._tasks]
        self._calls.clear()
        for each in calls:
            each.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
