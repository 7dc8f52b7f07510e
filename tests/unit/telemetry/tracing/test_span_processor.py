"""Each span is delivered or counted, whatever the collector does, and nobody waits for it."""

import threading
from collections.abc import Callable, Iterator, Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import SpanContext, TraceFlags

from fleetlimit.telemetry.tracing.span_processor import CountingBatchSpanProcessor
from support.server import PATIENCE_SECONDS

DELIVERED, FAILED = SpanExportResult.SUCCESS, SpanExportResult.FAILURE


class FakeExporter(SpanExporter):
    """Takes spans as the test says, at once or when it lets it."""

    def __init__(self) -> None:
        self.answer: SpanExportResult | Exception = DELIVERED
        self.delivered: list[str] = []
        self.closed = 0
        self.asked = threading.Event()
        self.ended = threading.Event()
        self.held = threading.Event()
        self.held.set()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Take a batch."""
        self.asked.set()
        self.held.wait()
        try:
            if isinstance(self.answer, Exception):
                raise self.answer
            if self.answer is DELIVERED:
                self.delivered += [span.name for span in spans]
            return self.answer
        finally:
            self.ended.set()

    def shutdown(self) -> None:
        """Count how often this is asked."""
        self.closed += 1


class Scene:
    """A queue of four spans in batches of two, before an exporter."""

    def __init__(self) -> None:
        self.exporter = FakeExporter()
        self.counts: list[int] = []
        self.queue = CountingBatchSpanProcessor(
            self.exporter,
            self.counts.append,
            max_queue_size=4,
            max_export_batch_size=2,
            close_s=PATIENCE_SECONDS,
        )

    def end(self, *spans: str, flags: int = TraceFlags.SAMPLED) -> None:
        """End spans of these names."""
        context = SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(flags))
        for name in spans:
            self.queue.on_end(ReadableSpan(name, context))

    def hang(self) -> None:
        """Have the exporter take two spans and keep silent."""
        self.exporter.held.clear()
        self.end("a", "b")
        assert self.exporter.asked.wait(PATIENCE_SECONDS)

    @property
    def dropped(self) -> int:
        """How many spans were counted."""
        return sum(self.counts)


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.exporter.held.set()
    scene.queue.shutdown()


def test_delivered_spans_are_not_counted(scene: Scene) -> None:
    """Any number of spans goes through a small queue as long as the collector takes them."""
    for number in range(9):
        scene.end(str(number))
        scene.queue.force_flush()
    assert sorted(scene.exporter.delivered) == [str(number) for number in range(9)]
    assert scene.counts == []


@pytest.mark.parametrize("answer", [FAILED, ConnectionError("away")])
def test_spans_that_the_exporter_gives_up_are_counted(
    scene: Scene, answer: SpanExportResult | Exception
) -> None:
    """A batch that fails is counted once and makes room for the next."""
    scene.exporter.answer = answer
    for _ in range(3):
        scene.end("a", "b", "c")
        scene.queue.force_flush()
    assert scene.dropped == 9
    scene.exporter.answer = DELIVERED
    scene.end("d")
    scene.queue.force_flush()
    assert (scene.exporter.delivered, scene.dropped) == (["d"], 9)


def test_spans_without_room_are_counted_at_once(scene: Scene) -> None:
    """While the collector keeps silent, what fits waits and the rest is dropped on the spot."""
    scene.hang()
    scene.end("c", "d", "e", "f", "g")
    assert scene.dropped == 3
    scene.exporter.held.set()
    scene.queue.force_flush()
    assert (scene.exporter.delivered, scene.dropped) == (["a", "b", "c", "d"], 3)


def test_spans_that_are_not_kept_take_no_room(scene: Scene) -> None:
    """A span that is not sampled is neither queued nor counted."""
    scene.end(*"abcdefg", flags=TraceFlags.DEFAULT)
    scene.end("h")
    scene.queue.force_flush()
    assert (scene.exporter.delivered, scene.counts) == (["h"], [])


def test_closing_sends_what_is_queued(scene: Scene) -> None:
    """Spans that wait for their batch are sent before the end, and the exporter is closed once."""
    scene.end("a")
    scene.queue.shutdown()
    assert (scene.exporter.delivered, scene.counts, scene.exporter.closed) == (["a"], [], 1)


def test_closing_does_not_wait_for_a_silent_collector(scene: Scene) -> None:
    """Closing ends though the exporter never returns, closes it, and counts what is left, once."""
    scene.hang()
    scene.end("c")
    scene.queue._close_s = 0.0
    scene.queue.shutdown()
    assert not scene.exporter.ended.is_set()
    assert (scene.counts, scene.exporter.closed) == ([3], 1)
    scene.end("late")
    assert scene.counts == [3, 1]
    scene.exporter.answer = FAILED
    scene.exporter.held.set()
    scene.queue._batch_processor._worker_thread.join(PATIENCE_SECONDS)
    scene.queue.shutdown()
    assert (scene.exporter.delivered, scene.counts, scene.exporter.closed) == ([], [3, 1], 1)


def race(work: Callable[[], None]) -> None:
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_every_span_is_accounted_for(scene: Scene) -> None:
    """Ended in many threads, each span is delivered or counted, and none is both."""
    race(lambda: scene.end(*(["span"] * 100)))
    scene.queue.shutdown()
    assert len(scene.exporter.delivered) + scene.dropped == 8 * 100
