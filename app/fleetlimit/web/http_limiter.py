"""What stands behind the dependency and the middleware, and how they find it."""

import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final, Protocol

from fleetlimit.core.decision import ALLOWED, Decision
from fleetlimit.core.policy import Mode
from fleetlimit.core.quota import Quota
from fleetlimit.core.subject import Identity
from fleetlimit.errors import ConfigError
from fleetlimit.limiter.limiter import Limiter
from fleetlimit.web.ratelimit_headers import (
    EXPOSED,
    Dialect,
    Headers,
    RawHeaders,
    limit_headers,
    raw,
    retry_after,
    seconds,
)
from fleetlimit.web.responses import MAX_REJECTIONS, Refusal, refused

MAX_KEPT: Final = 4_096
_DRAFT_11: Final = Dialect.DRAFT_11
_EPOCH: Final = Dialect.X_RATELIMIT_EPOCH
_SHADOW: Final = Mode.SHADOW
_Place = tuple[str, int, int, int]
_Kept = tuple[tuple[Quota, ...], RawHeaders]


class Identifier(Protocol):
    """Tells who sent a request, from verified credentials only."""

    async def identify(self, scope: Mapping[str, Any]) -> Identity:
        """Return the identity behind an ASGI `http` or `websocket` scope; never raises."""
        ...


class Gate:
    """A limiter, and how the web sees it.

    Args:
        limiter: Decides.
        identifier: Tells who sent a request; replaced when the policy file is.
        dialect: How clients are told of their limits.
        reject_invalid: Whether a credential that does not verify is refused with 401.
    """

    def __init__(
        self,
        limiter: Limiter,
        identifier: Identifier,
        *,
        dialect: Dialect = Dialect.DRAFT_11,
        reject_invalid: bool = False,
    ) -> None:
        self.limiter = limiter
        self.identifier = identifier
        self.dialect = dialect
        self.reject_invalid = reject_invalid
        # By the id of the decision, which is kept with it: in a flood one is given again and again.
        self.refusals: dict[int, tuple[Decision, Refusal]] = {}
        # By all that they say; the limits by their id, and kept with it.
        self._fields: dict[_Place, _Kept] = {}

    @property
    def exposed(self) -> str:
        """Names of the fields that a browser's script may want to read."""
        return EXPOSED[self.dialect]

    def headers(self, decision: Decision) -> Headers:
        """Return the fields for a response, with Retry-After if it is a refusal."""
        now = int(time.time()) if self.dialect is _EPOCH else 0
        fields = limit_headers(decision, self.dialect, unix_seconds=now)
        if not decision.allowed:
            fields.append(("Retry-After", retry_after(decision)))
        return fields

    def fields(self, decision: Decision) -> RawHeaders:
        """Return the same as ASGI has them, in a list that others are given as well.

        One limit's are kept: many callers have as much left, and to write them takes as long as to
        decide.
        """
        outcome, _, results, _, _ = decision
        if outcome is ALLOWED and len(results) == 1 and self.dialect is _DRAFT_11:
            policy, mode, _, quotas, verdicts = results[0]
            if mode is not _SHADOW and len(verdicts) == 1 and verdicts[0] is not None:
                _, remaining, _, next_us, _ = verdicts[0]
                place = policy, id(quotas), remaining, seconds(next_us)
                known = self._fields.get(place) or self._keep(place, quotas, decision)
                return known[1]
        return raw(self.headers(decision))

    def refusal(self, decision: Decision) -> Refusal:
        """Return the response of a refusing decision."""
        known = self.refusals.get(id(decision))
        if known is not None and known[0] is decision:
            return known[1]
        if len(self.refusals) >= MAX_REJECTIONS:
            self.refusals.clear()
        refusal = refused(decision, self.headers(decision), self.exposed)
        self.refusals[id(decision)] = decision, refusal
        return refusal

    def _keep(self, place: _Place, quotas: tuple[Quota, ...], decision: Decision) -> _Kept:
        if len(self._fields) >= MAX_KEPT:
            self._fields.clear()
        kept = self._fields[place] = quotas, raw(self.headers(decision))
        return kept


class DefaultGate:
    """Makes a gate for an app that sets up none; `open` is given by the package's root."""

    open: ClassVar[Callable[[], Gate] | None] = None


def find_gate(scope: Mapping[str, Any]) -> Gate:
    """Return the gate of the app that a request came to.

    It is the one that the app's lifespan opened; an app without one gets a gate of its own, made
    from the environment.

    Raises:
        ConfigError: There is no app that could have one.
    """
    state = scope.get("state")
    if state and isinstance(gate := state.get("fleetlimit"), Gate):
        return gate
    app = scope.get("app")
    if app is None:
        raise ConfigError("an app that is not Starlette's needs RateLimitMiddleware(app, gate=...)")
    gate = getattr(app.state, "fleetlimit", None)
    if not isinstance(gate, Gate):
        if DefaultGate.open is None:
            raise RuntimeError("import fleetlimit before its parts")
        gate = app.state.fleetlimit = DefaultGate.open()
    return gate
