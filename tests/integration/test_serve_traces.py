"""One trace for one request: server span, store call, log line and exemplar."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from fleetlimit.stores.embedded import EmbeddedValkey, free_port
from support.collector import Collector
from support.eventually import eventually_async
from support.server import ServeProcess

PLAIN = """
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"plain"})
"""


def policy_file(folder: Path) -> str:
    path = folder / "policies.yaml"
    path.write_text(
        "version: 1\npolicies:\n"
        '  - {name: items, match: {routes: ["/items/{item_id}"]}, limits: [{rate: 1/day}]}\n'
    )
    return str(path)


def by_kind(spans: list[Span]) -> tuple[Span, Span, Span] | None:
    """Return the spans of the server, the limiter and the store, once all were received."""
    servers = [span for span in spans if span.kind == Span.SPAN_KIND_SERVER]
    checks = [span for span in spans if span.name == "fleetlimit.check"]
    calls = [span for span in spans if span.kind == Span.SPAN_KIND_CLIENT]
    return (servers[0], checks[0], calls[0]) if servers and checks and calls else None


@pytest.mark.parametrize("target", ["", "plain:app"])
async def test_a_request_is_one_trace(tmp_path: Path, valkey: EmbeddedValkey, target: str) -> None:
    """The spans are parent and child; log line and exemplar have the trace of a denial."""
    (tmp_path / "plain.py").write_text(PLAIN)
    with (
        Collector() as collector,
        ServeProcess(
            *filter(None, [target]),
            "--policies",
            policy_file(tmp_path),
            folder=tmp_path,
            settings={
                **collector.settings,
                "FLEETLIMIT_STORE": valkey.url,
                "FLEETLIMIT_KEY_PREFIX": f"traces-{target.partition(':')[0]}",
            },
        ) as service,
    ):
        await service.ready()
        assert [(await service.get("/items/1")).status for _ in range(2)] == [200, 429]
        (line,) = await eventually_async(lambda: service.logged("request.denied"))
        denied = line["trace_id"]
        server, check, call = await eventually_async(
            lambda: by_kind(collector.traces().get(denied, []))
        )

        assert server.name == "GET /items/{item_id}"
        assert check.parent_span_id == server.span_id
        assert call.parent_span_id == check.span_id
        attributes = {each.key: each.value for each in check.attributes}
        assert attributes["fleetlimit.outcome"].string_value == "denied"
        for name in ("fleetlimit_decisions_total", "fleetlimit_denials_total"):
            found = await service.samples(name, 'policy="items"', 'outcome="denied"')
            samples = [sample for sample in found if sample.value]
            assert [sample.value for sample in samples] == [1]
            assert f'trace_id="{denied}"' in samples[0].exemplar
        assert f'route="{line["route"]}"' in samples[0].labels
        assert 'tier="none"' in samples[0].labels
        assert await service.metric("fleetlimit_spans_dropped_total") == 0
        slow = await service.samples("fleetlimit_check_duration_seconds_bucket", 'source="store"')
        assert any("trace_id=" in sample.exemplar for sample in slow)
        assert server.status.code == 0


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Return a port that accepts connections and never responds."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def exporting(protocol: str, port: int, **further: str) -> dict[str, str]:
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        **further,
    }


PROTOCOLS = pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])


@PROTOCOLS
async def test_unavailable_collector_drops_spans_only(tmp_path: Path, protocol: str) -> None:
    """Requests are decided as before, and every undelivered span is counted."""
    settings = exporting(protocol, free_port(), OTEL_EXPORTER_OTLP_TIMEOUT="0.5")
    with ServeProcess("--policies", policy_file(tmp_path), settings=settings) as service:
        await service.ready()
        assert [(await service.get("/items/1")).status for _ in range(3)] == [200, 429, 429]
        # Two spans per request, server and check: there is no store to call.
        await eventually_async(lambda: dropped(service, 6))
        assert await service.metric("fleetlimit_checks_total") == 3
        assert await service.stop() == 0


async def dropped(service: ServeProcess, spans: int) -> bool:
    return await service.metric("fleetlimit_spans_dropped_total") == spans


@PROTOCOLS
async def test_blocked_collector_delays_nothing(
    tmp_path: Path, protocol: str, silent_port: int
) -> None:
    """Neither requests nor the shutdown wait for a collector that never responds."""
    day, queue, requests = 86_400, 8, 50
    settings = exporting(
        protocol,
        silent_port,
        OTEL_EXPORTER_OTLP_TIMEOUT=str(day),
        OTEL_BSP_MAX_QUEUE_SIZE=str(queue),
    )
    with ServeProcess("--policies", policy_file(tmp_path), settings=settings) as service:
        await service.ready()
        statuses = [(await service.get("/items/1")).status for _ in range(requests)]
        assert statuses == [200, *[429] * (requests - 1)]
        await eventually_async(lambda: dropped(service, 2 * requests - queue))
        assert await service.stop() == 0


async def test_no_traces_without_otel_variables(tmp_path: Path) -> None:
    """Without an OTEL_* variable there is no trace, and no log line has a trace id."""
    with ServeProcess("--policies", policy_file(tmp_path)) as service:
        await service.ready()
        assert [(await service.get("/items/1")).status for _ in range(2)] == [200, 429]
        (line,) = await eventually_async(lambda: service.logged("request.denied"))
        assert "trace_id" not in line


@pytest.mark.parametrize(("bound", "sampled"), [("0", False), ("1000", True)])
async def test_sampled_parents_are_bounded_by_the_setting(
    tmp_path: Path,
    bound: str,
    sampled: bool,  # noqa: FBT001 - a case
) -> None:
    """A client's `traceparent` is sampled within the bound only; one line says so."""
    with (
        Collector() as collector,
        ServeProcess(
            "--policies",
            policy_file(tmp_path),
            settings={
                **collector.settings,
                "OTEL_TRACES_SAMPLER": "parentbased_always_off",
                "FLEETLIMIT_TRACE_PARENTS_PER_SECOND": bound,
            },
        ) as service,
    ):
        await service.ready()
        for number in range(1, 6):
            await service.get("/items/1", traceparent=f"00-{number:032x}-{8:016x}-01")
        assert await service.stop() == 0
        assert len(collector.traces()) == (5 if sampled else 0)
        lines = [line for line in service.lines if "tracing.parents_limited" in line["event"]]
        assert len(lines) == (not sampled)
