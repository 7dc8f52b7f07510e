"""Logs of the server: a client's requests do not fill them, and failures of the app are kept."""

import asyncio
import io
import json
import logging
import socket

import pytest
import uvicorn
from opentelemetry import propagate

from fleetlimit.core.quota import SECOND_US
from fleetlimit.limiter.log_sampler import LINES_PER_WINDOW, WINDOW_US
from fleetlimit.telemetry.logs.config import configure_logging
from fleetlimit.telemetry.logs.server_log import ServerLogFilter
from support.clock import ManualClock

INVALID = "Invalid HTTP request received."


@pytest.fixture(name="stream")
def _stream() -> io.StringIO:
    stream = io.StringIO()
    configure_logging(stream=stream)
    return stream


def events(stream: io.StringIO) -> list[str]:
    return [json.loads(line)["event"] for line in stream.getvalue().splitlines()]


def test_lines_and_counts_add_up(stream: io.StringIO) -> None:
    """Five lines of a message are written in ten seconds, and a count of the others."""
    clock = ManualClock()
    ServerLogFilter(clock).install()
    log = logging.getLogger("uvicorn.error")
    for _ in range(100):
        log.warning(INVALID)
        log.info("%s - served", "192.0.2.1")
    clock.advance(WINDOW_US / SECOND_US)
    log.info("Shutting down")
    assert events(stream) == [
        *[INVALID, "192.0.2.1 - served"] * LINES_PER_WINDOW,
        f"server.suppressed message='{INVALID}' suppressed=95",
        "server.suppressed message='%s - served' suppressed=95",
        "Shutting down",
    ]


def test_failures_of_the_app_are_not_sampled(stream: io.StringIO) -> None:
    """Each exception of the app is written."""
    for _ in range(20):
        logging.getLogger("uvicorn.error").error("Exception in ASGI application\n")
    assert len(events(stream)) == 20


async def test_flood_of_invalid_requests_has_few_lines(stream: io.StringIO) -> None:
    """What a real server writes about requests that are not HTTP is sampled."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(lambda: None, log_config=None, lifespan="off")
        server = uvicorn.Server(config)
        task = asyncio.get_running_loop().create_task(server._serve([listening]))
        for _ in range(20):
            reader, writer = await asyncio.open_connection(*listening.getsockname())
            writer.write(b"\x16\x03\x01 no HTTP\r\n\r\n")
            assert b"400" in await reader.read()
            writer.close()
        server.should_exit = True
        await task
    assert events(stream).count(INVALID) == LINES_PER_WINDOW


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("baggage", "=,;" * 100),
        ("baggage", "k=v," * 3000),
        ("traceparent", "0" * 5000),
        ("tracestate", "="),
        ("tracestate", ",".join(f"k{number}=v" for number in range(40))),
    ],
)
def test_flood_of_invalid_propagation_headers_has_few_lines(
    stream: io.StringIO, header: str, value: str
) -> None:
    """OpenTelemetry writes a line for each invalid entry of a header that a client sends."""
    carrier = {"traceparent": f"00-{1:032x}-{1:016x}-01"} | {header: value}
    for _ in range(20):
        propagate.extract(carrier)
    assert len(events(stream)) <= 3 * LINES_PER_WINDOW
