"""Batch span processor that counts every span the collector did not receive."""

import threading
from collections.abc import Callable, Sequence

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

MAX_QUEUE_SIZE = 2048
MAX_EXPORT_BATCH_SIZE = 512
"""Spans, both the defaults of OpenTelemetry's specification of the batching processor."""
CLOSE_SECONDS = 3.0
"""Time to flush on shutdown."""


class CountingBatchSpanProcessor(BatchSpanProcessor):
    """Exports spans in batches from a thread; each span is delivered or counted as dropped.

    Spans are dropped when the queue is full, when the exporter fails, and when they are still
    queued after shutdown. The spans of a batch count against `max_queue_size` until they are
    delivered, so that the queue of the base class never drops a span without counting it.

    Args:
        exporter: Exporter with a timeout of its own.
        on_dropped: Called with the number of dropped spans, from any thread.
        max_queue_size: Maximum number of spans queued or being exported.
        max_export_batch_size: Maximum number of spans in a batch; capped at `max_queue_size`.
        close_s: Maximum duration of `shutdown` in seconds.
    """

    def __init__(
        self,
        exporter: SpanExporter,
        on_dropped: Callable[[int], None],
        *,
        max_queue_size: int = MAX_QUEUE_SIZE,
        max_export_batch_size: int = MAX_EXPORT_BATCH_SIZE,
        close_s: float = CLOSE_SECONDS,
    ) -> None:
        self._on_dropped = on_dropped
        self._max_pending = max_queue_size
        self._close_s = close_s
        self._pending = 0
        self._closed = False
        self._lock = threading.Lock()
        self._counting_exporter = _CountingExporter(exporter, self._on_exported)
        super().__init__(
            self._counting_exporter,
            max_queue_size=max_queue_size,
            max_export_batch_size=min(max_export_batch_size, max_queue_size),
        )

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a sampled span, or count it as dropped if the queue is full."""
        if not (span.context and span.context.trace_flags.sampled):
            return
        with self._lock:
            has_room = self._pending < self._max_pending and not self._closed
            if has_room:
                self._pending += 1
        if has_room:
            super().on_end(span)
        else:
            self._on_dropped(1)

    def shutdown(self) -> None:
        """Export the queue for at most `close_s`, and count the undelivered spans as dropped."""
        # `shutdown()` of the base class may block for 30 s, so run it in a daemon thread.
        closing = threading.Thread(target=super().shutdown, daemon=True)
        closing.start()
        closing.join(self._close_s)
        self._counting_exporter.shutdown()
        with self._lock:
            undelivered, self._pending, self._closed = self._pending, 0, True
        if undelivered:
            self._on_dropped(undelivered)

    def _on_exported(self, spans: int, *, delivered: bool) -> None:
        with self._lock:
            if self._closed:
                return
            self._pending -= spans
        if not delivered:
            self._on_dropped(spans)


class _CountingExporter(SpanExporter):
    """Exporter that reports how many spans were delivered, and is shut down only once.

    Args:
        exporter: The exporter to delegate to.
        on_exported: Called with the number of spans of a batch, and whether they were delivered.
    """

    def __init__(self, exporter: SpanExporter, on_exported: Callable[..., None]) -> None:
        self.exporter = exporter
        self._on_exported = on_exported
        self._closed = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export a batch, unless shut down."""
        result = SpanExportResult.FAILURE
        try:
            if not self._closed:
                result = self.exporter.export(spans)
        finally:
            self._on_exported(len(spans), delivered=result is SpanExportResult.SUCCESS)
        return result

    def shutdown(self) -> None:
        """Shut down the exporter, which ends its pause between two attempts."""
        if not self._closed:
            self._closed = True
            self.exporter.shutdown()
