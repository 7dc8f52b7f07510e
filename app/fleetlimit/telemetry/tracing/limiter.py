"""Wraps each check in a span, so that the store call becomes its child."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from opentelemetry import context, trace

from fleetlimit.core.decision import Decision, Source
from fleetlimit.core.quota import MILLISECOND_US
from fleetlimit.telemetry import names
from fleetlimit.telemetry.tracing.head_sampling import is_unsampled

_STORE_CALL = {
    names.ATTR_DB_SYSTEM: "redis",
    names.ATTR_DB_OPERATION: "EVALSHA",
    names.ATTR_DB_PROCEDURE: "take",
}


class LimiterSpan:
    """The span of one check, current while its `with` block runs."""

    __slots__ = ("_policies", "_span", "_token", "_tracer")

    def __init__(self, tracer: trace.Tracer, policies: Sequence[str]) -> None:
        self._tracer = tracer
        self._policies = policies

    def __enter__(self) -> Self:
        self._span = self._tracer.start_span(
            names.SPAN_CHECK, attributes={names.ATTR_POLICY: tuple(self._policies)}
        )
        self._token = context.attach(trace.set_span_in_context(self._span))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        context.detach(self._token)
        # A cancelled check is no exception in this sense: the client went away.
        if isinstance(error, Exception):
            self._span.record_exception(error)
            self._span.set_status(trace.StatusCode.ERROR, f"{type(error).__name__}: {error}")
        self._span.end()

    def decided(self, decision: Decision) -> None:
        """Say on the span what was decided; a refusal is not an error."""
        span = self._span
        if not span.is_recording():
            return
        span.set_attribute(names.ATTR_RESULT, decision.outcome.value)
        span.set_attribute(names.ATTR_SOURCE, decision.source.value)
        if decision.retry_after_us:
            # Rounded up, so that nobody who reads it comes back too early.
            span.set_attribute(
                names.ATTR_RETRY_AFTER_MS, -(-decision.retry_after_us // MILLISECOND_US)
            )
        if decision.source is Source.STORE:
            span.set_attributes(_STORE_CALL)


class LimiterTracing:
    """Makes a span for each check.

    Args:
        provider: Where spans go; the application's own when left out.
        version: Version of the instrumentation, shown with each span.

    Attributes:
        tracer: OpenTelemetry's tracer, for spans of store calls.
    """

    def __init__(self, provider: trace.TracerProvider | None = None, *, version: str = "") -> None:
        self.tracer = trace.get_tracer("fleetlimit", version, provider)

    def follows(self) -> bool:
        """Tell whether a check that begins here is to have a span.

        Not within a request of this process that is not sampled: a sampler would drop the span with
        its parent, and to ask one takes longer than the check.
        """
        if is_unsampled():
            return False
        above = trace.get_current_span().get_span_context()
        return not above.is_valid or above.is_remote or above.trace_flags.sampled

    def check(self, policies: Sequence[str]) -> LimiterSpan:
        """Return the span of a check under these policies, to be used as a context manager."""
        return LimiterSpan(self.tracer, policies)
