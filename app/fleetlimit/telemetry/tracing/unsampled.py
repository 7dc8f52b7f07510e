"""Context of an unsampled request, recognised without looking up its span."""

from typing import Self

from opentelemetry import context, trace


class UnsampledContext(context.Context):
    """Context of an unsampled request. Attaching anything yields a plain `Context`."""

    @classmethod
    def for_span(cls, span: trace.SpanContext) -> Self:
        """Return the context of an unsampled span."""
        return cls(trace.set_span_in_context(trace.NonRecordingSpan(span), context.Context()))

    def merged_with_current(self) -> context.Context:
        """Return this span merged into the current context."""
        if not context.get_current():
            return self
        return trace.set_span_in_context(trace.get_current_span(self))


def in_unsampled_request() -> bool:
    """Return whether the current context is exactly that of an unsampled request."""
    return type(context.get_current()) is UnsampledContext
