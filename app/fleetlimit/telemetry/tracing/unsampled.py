"""Context of an unsampled request, recognised without looking up its span."""

from typing import Self

from opentelemetry import context, trace


class UnsampledContext(context.Context):
    """Context of an unsampled request. Attaching anything yields a plain `Context`."""

    @classmethod
    def for_span(cls, span: trace.SpanContext, around: context.Context | None = None) -> Self:
        """Return the context of an unsampled span.

        Args:
            span: Ids of the span.
            around: Context whose further values, such as baggage, are kept; by default empty.
        """
        unsampled = trace.NonRecordingSpan(span)
        return cls(trace.set_span_in_context(unsampled, around or context.Context()))


def in_unsampled_request() -> bool:
    """Return whether the current context is exactly that of an unsampled request."""
    return type(context.get_current()) is UnsampledContext
