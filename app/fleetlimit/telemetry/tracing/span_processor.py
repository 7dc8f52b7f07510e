"""Queues spans for a collector; those that it does not get are counted, and nobody waits for it."""

import threading
from collections.abc import Callable, Sequence

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

CAPACITY = 2048
BATCH = 512
"""Spans, both as OpenTelemetry's specification of the batching processor has them."""
CLOSE_SECONDS = 3.0
"""Enough for a collector that answers to take all of a queue, and nothing to one that does not."""


class SpanQueue(BatchSpanProcessor):
    """Sends spans in batches from a thread of its own.

    Each span is delivered or counted as dropped: when the queue is full, when the exporter fails,
    or when it is still there after closing. The spans of a batch have their place in the queue
    until it is delivered, so that the queue never drops any by itself, uncounted.

    Args:
        exporter: Sends a batch; by its own timeout it gives up.
        dropped: Told how many spans were dropped, from any thread.
        capacity: Spans that wait or are on their way, at most.
        batch: Spans in one batch, at most; no more than the capacity in any case.
        close_s: Seconds that closing may take.
    """

    def __init__(
        self,
        exporter: SpanExporter,
        dropped: Callable[[int], None],
        *,
        capacity: int = CAPACITY,
        batch: int = BATCH,
        close_s: float = CLOSE_SECONDS,
    ) -> None:
        self._dropped = dropped
        self._capacity = capacity
        self._close_s = close_s
        self._taken = 0
        self._closed = False
        self._lock = threading.Lock()
        self._way = _Way(exporter, self._left)
        super().__init__(
            self._way, max_queue_size=capacity, max_export_batch_size=min(batch, capacity)
        )

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a span that is kept, if there is room."""
        if not (span.context and span.context.trace_flags.sampled):
            return
        with self._lock:
            room = self._taken < self._capacity and not self._closed
            if room:
                self._taken += 1
        if room:
            super().on_end(span)
        else:
            self._dropped(1)

    def shutdown(self) -> None:
        """Send what is queued, as far as there is time; the rest is dropped."""
        # By itself it would wait for half a minute. The process does not wait for a daemon.
        closing = threading.Thread(target=super().shutdown, daemon=True)
        closing.start()
        closing.join(self._close_s)
        self._way.shutdown()
        with self._lock:
            left, self._taken, self._closed = self._taken, 0, True
        if left:
            self._dropped(left)

    def _left(self, spans: int, *, delivered: bool) -> None:
        with self._lock:
            if self._closed:
                return
            self._taken -= spans
        if not delivered:
            self._dropped(spans)


class _Way(SpanExporter):
    """The way out of the queue, closed only once.

    Args:
        exporter: Sends a batch.
        left: Told how many spans have left, and whether they were delivered.
    """

    def __init__(self, exporter: SpanExporter, left: Callable[..., None]) -> None:
        self.exporter = exporter
        self._left = left
        self._closed = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch, unless closed."""
        result = SpanExportResult.FAILURE
        try:
            if not self._closed:
                result = self.exporter.export(spans)
        finally:
            self._left(len(spans), delivered=result is SpanExportResult.SUCCESS)
        return result

    def shutdown(self) -> None:
        """Close the exporter, which ends its waiting between two attempts."""
        if not self._closed:
            self._closed = True
            self.exporter.shutdown()
