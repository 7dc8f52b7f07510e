"""Tracer of checks: one span per check, with the store call as its child."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from opentelemetry import context, trace

from fleetlimit.core.decision import Decision, Source
from fleetlimit.core.quota import MILLISECOND_US
from fleetlimit.telemetry import names
from fleetlimit.telemetry.tracing.unsampled import in_unsampled_request

_STORE_CALL_ATTRIBUTES = {
    names.ATTR_DB_SYSTEM: "redis",
    names.ATTR_DB_OPERATION: "EVALSHA",
    names.ATTR_DB_PROCEDURE: "acquire",
}


class OpenTelemetryCheckSpan:
    """Span of one check, current while its `with` block runs."""

    __slots__ = ("_policies", "_span", "_token", "_tracer")

    def __init__(self, tracer: trace.Tracer, policies: Sequence[str]) -> None:
        self._tracer = tracer
        self._policies = policies

    def __enter__(self) -> Self:
        self._span = self._tracer.start_span(
            names.SPAN_CHECK, attributes={names.ATTR_POLICIES: tuple(self._policies)}
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
        # A cancellation is not an `Exception`: a client that disconnected is not an error.
        if isinstance(error, Exception):
            self._span.record_exception(error)
            self._span.set_status(trace.StatusCode.ERROR, f"{type(error).__name__}: {error}")
        self._span.end()

    def set_decision(self, decision: Decision) -> None:
        """Set the attributes of the decision; a rejection is not an error."""
        span = self._span
        if not span.is_recording():
            return
        span.set_attribute(names.ATTR_OUTCOME, decision.outcome.value)
        span.set_attribute(names.ATTR_SOURCE, decision.source.value)
        if decision.retry_after_us:
            # Rounded up, so that a retry at this time is not too early.
            span.set_attribute(
                names.ATTR_RETRY_AFTER_MS, -(-decision.retry_after_us // MILLISECOND_US)
            )
        if decision.source is Source.STORE:
            span.set_attributes(_STORE_CALL_ATTRIBUTES)


class OpenTelemetryTracer:
    """Creates a span for each check; it needs `opentelemetry-api` only.

    Args:
        provider: Tracer provider of the spans; by default the global one.
        version: Version of the instrumentation scope.

    Attributes:
        tracer: OpenTelemetry tracer, also for the spans of store calls.
    """

    def __init__(self, provider: trace.TracerProvider | None = None, *, version: str = "") -> None:
        self.tracer = trace.get_tracer("fleetlimit", version, provider)

    def is_sampled(self) -> bool:
        """Return whether a check that starts now gets a span.

        It does not in an unsampled request of this process: the sampler would drop the span with
        its parent, and asking the sampler takes longer than the check.
        """
        if in_unsampled_request():
            return False
        parent = trace.get_current_span().get_span_context()
        return not parent.is_valid or parent.is_remote or parent.trace_flags.sampled

    def start_check(self, policies: Sequence[str]) -> OpenTelemetryCheckSpan:
        """Return the span of a check as a context manager.

        Args:
            policies: Names of the policies that apply.
        """
        return OpenTelemetryCheckSpan(self.tracer, policies)
