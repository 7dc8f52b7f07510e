"""Queues spans for a collector; those that it does not get are counted, and nobody waits for it."""

import threading
from collections.abc import Callable, Sequence

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

MAX_QUEUE_SIZE = 2048
MAX_EXPORT_BATCH_SIZE = 512
"""Spans, both as OpenTelemetry's specification of the batching processor has them."""
CLOSE_SECONDS = 3.0
"""Enough for a collector that answers to take all of a queue, and nothing to one that does not."""


class CountingBatchSpanProcessor(BatchSpanProcessor):
    """Sends spans in batches from a thread of its own.

    Each span is delivered or counted as dropped: when the queue is full, when the exporter fails,
    or when it is still there after closing. The spans of a batch have their place in the queue
    until it is delivered, so that the queue never drops any by itself, uncounted.

    Args:
        exporter: Sends a batch; by its own timeout it gives up.
        on_dropped: Told how many spans were dropped, from any thread.
        max_queue_size: Spans that wait or are on their way, at most.
        max_export_batch_size: Spans in one batch, at most; no more than the capacity in any case.
        close_s: Seconds that closing may take.
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
        """Queue a span that is kept, if there is room."""
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
        """Send what is queued, as far as there is time; the rest is dropped."""
        # By itself it would wait for half a minute. The process does not wait for a daemon.
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
    """The way out of the queue, closed only once.

    Args:
        exporter: Sends a batch.
        on_exported: Told how many spans have left, and whether they were delivered.
    """

    def __init__(self, exporter: SpanExporter, on_exported: Callable[..., None]) -> None:
        self.exporter = exporter
        self._on_exported = on_exported
        self._closed = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch, unless closed."""
        result = SpanExportResult.FAILURE
        try:
            if not self._closed:
                result = self.exporter.export(spans)
        finally:
            self._on_exported(len(spans), delivered=result is SpanExportResult.SUCCESS)
        return result

    def shutdown(self) -> None:
        """Close the exporter, which ends its waiting between two attempts."""
        if not self._closed:
            self._closed = True
            self.exporter.shutdown()
