"""Span processor: each span is delivered or counted, whatever the collector does."""

import threading
from collections.abc import Callable, Iterator, Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import SpanContext, TraceFlags

from fleetlimit.telemetry.tracing.span_processor import CountingBatchSpanProcessor
from support.eventually import PATIENCE_SECONDS

DELIVERED, FAILED = SpanExportResult.SUCCESS, SpanExportResult.FAILURE


class FakeExporter(SpanExporter):
    """Exporter with a result chosen by the test, that can be blocked."""

    def __init__(self) -> None:
        self.outcome: SpanExportResult | Exception = DELIVERED
        self.delivered: list[str] = []
        self.closed = 0
        self.called = threading.Event()
        self.ended = threading.Event()
        self.released = threading.Event()
        self.released.set()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export a batch."""
        self.called.set()
        self.released.wait()
        try:
            if isinstance(self.outcome, Exception):
                raise self.outcome
            if self.outcome is DELIVERED:
                self.delivered += [span.name for span in spans]
            return self.outcome
        finally:
            self.ended.set()

    def shutdown(self) -> None:
        """Count the calls."""
        self.closed += 1


class Bench:
    """A processor with room for four spans in batches of two, and its exporter."""

    def __init__(self) -> None:
        self.exporter = FakeExporter()
        self.counts: list[int] = []
        self.processor = CountingBatchSpanProcessor(
            self.exporter,
            self.counts.append,
            max_queue_size=4,
            max_export_batch_size=2,
            close_s=PATIENCE_SECONDS,
        )

    def end(self, *spans: str, flags: int = TraceFlags.SAMPLED) -> None:
        """End spans with these names."""
        context = SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(flags))
        for name in spans:
            self.processor.on_end(ReadableSpan(name, context))

    def hang(self) -> None:
        """Block the exporter with two spans."""
        self.exporter.released.clear()
        self.end("a", "b")
        assert self.exporter.called.wait(PATIENCE_SECONDS)

    @property
    def dropped(self) -> int:
        """Number of spans counted as dropped."""
        return sum(self.counts)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.exporter.released.set()
    bench.processor.shutdown()


def test_delivered_spans_are_not_counted(bench: Bench) -> None:
    """Any number of spans passes a small queue while the collector receives them."""
    for number in range(9):
        bench.end(str(number))
        bench.processor.force_flush()
    assert sorted(bench.exporter.delivered) == [str(number) for number in range(9)]
    assert bench.counts == []


@pytest.mark.parametrize("outcome", [FAILED, ConnectionError("unavailable")])
def test_spans_of_a_failed_export_are_counted(
    bench: Bench, outcome: SpanExportResult | Exception
) -> None:
    """A failed batch is counted once and makes room for the next."""
    bench.exporter.outcome = outcome
    for _ in range(3):
        bench.end("a", "b", "c")
        bench.processor.force_flush()
    assert bench.dropped == 9
    bench.exporter.outcome = DELIVERED
    bench.end("d")
    bench.processor.force_flush()
    assert (bench.exporter.delivered, bench.dropped) == (["d"], 9)


def test_spans_beyond_the_queue_are_counted_at_once(bench: Bench) -> None:
    """While the exporter is blocked, the queue fills and further spans are dropped."""
    bench.hang()
    bench.end("c", "d", "e", "f", "g")
    assert bench.dropped == 3
    bench.exporter.released.set()
    bench.processor.force_flush()
    assert (bench.exporter.delivered, bench.dropped) == (["a", "b", "c", "d"], 3)


def test_unsampled_spans_take_no_room(bench: Bench) -> None:
    """An unsampled span is neither queued nor counted."""
    bench.end(*"abcdefg", flags=TraceFlags.DEFAULT)
    bench.end("h")
    bench.processor.force_flush()
    assert (bench.exporter.delivered, bench.counts) == (["h"], [])


def test_shutdown_exports_the_queue(bench: Bench) -> None:
    """Queued spans are exported, and the exporter is shut down once."""
    bench.end("a")
    bench.processor.shutdown()
    assert (bench.exporter.delivered, bench.counts, bench.exporter.closed) == (["a"], [], 1)


def test_shutdown_does_not_wait_for_a_blocked_exporter(bench: Bench) -> None:
    """It returns although the exporter is blocked, and counts undelivered spans once."""
    bench.hang()
    bench.end("c")
    bench.processor._close_s = 0.0
    bench.processor.shutdown()
    assert not bench.exporter.ended.is_set()
    assert (bench.counts, bench.exporter.closed) == ([3], 1)
    bench.end("late")
    assert bench.counts == [3, 1]
    bench.exporter.outcome = FAILED
    bench.exporter.released.set()
    bench.processor._batch_processor._worker_thread.join(PATIENCE_SECONDS)
    bench.processor.shutdown()
    assert (bench.exporter.delivered, bench.counts, bench.exporter.closed) == ([], [3, 1], 1)


def race(work: Callable[[], None]) -> None:
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_concurrent_spans_are_delivered_or_counted(bench: Bench) -> None:
    """Each of 800 spans from 8 threads is delivered or counted, and none is both."""
    race(lambda: bench.end(*(["span"] * 100)))
    bench.processor.shutdown()
    assert len(bench.exporter.delivered) + bench.dropped == 8 * 100
