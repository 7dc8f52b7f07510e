"""The context of a request that is not sampled, known by its kind.

To find the current span and ask whether it is sampled takes six calls, and every check needs to
know it twice.
"""

from typing import Self

from opentelemetry import context, trace


class Unsampled(context.Context):
    """Has a span of this process that is not sampled; with anything put on top it is another."""

    @classmethod
    def of(cls, span: trace.SpanContext) -> Self:
        """Return the context of a span that is not sampled."""
        return cls(trace.set_span_in_context(trace.NonRecordingSpan(span), context.Context()))

    def here(self) -> context.Context:
        """Return its span among whatever else is current."""
        if not context.get_current():
            return self
        return trace.set_span_in_context(trace.get_current_span(self))


def is_unsampled() -> bool:
    """Tell whether that of a request is current, and nothing is put on top of it."""
    return type(context.get_current()) is Unsampled
