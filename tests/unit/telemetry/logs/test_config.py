"""Log lines of every library: one JSON object with trace and pod."""

import io
import json
import logging
from datetime import datetime, timedelta
from typing import Any

import pytest
import structlog
import uvicorn
from opentelemetry.sdk.trace import TracerProvider

from fleetlimit.errors import ConfigError
from fleetlimit.telemetry.logs.config import configure_logging

CREDENTIAL = "hunter2"


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_line_is_json_with_time_level_and_pod() -> None:
    """A line is one JSON object with UTC time, level, logger, event, fields and pod."""
    stream = io.StringIO()
    configure_logging("info", pod="fleetlimit-0", stream=stream)
    structlog.get_logger("fleetlimit.test").info("policies.loaded", count=3)
    (line,) = lines(stream)
    assert datetime.fromisoformat(line.pop("timestamp")).utcoffset() == timedelta(0)
    assert line == {
        "event": "policies.loaded",
        "level": "info",
        "logger": "fleetlimit.test",
        "pod": "fleetlimit-0",
        "count": 3,
    }


@pytest.mark.parametrize("name", ["uvicorn.error", "uvicorn.access", "asyncio"])
def test_other_libraries_share_the_renderer(name: str) -> None:
    """A line of uvicorn or of any other library has the same form, and is written once."""
    stream = io.StringIO()
    own = logging.StreamHandler(io.StringIO())
    logging.getLogger("uvicorn.access").addHandler(own)
    configure_logging(stream=stream)
    logging.getLogger(name).warning("served %s", "it", extra={"color_message": "no"})
    (line,) = lines(stream)
    assert (line["event"], line["level"], line["logger"]) == ("served it", "warning", name)
    assert set(line) == {"event", "level", "logger", "timestamp"}


def test_access_log_that_is_off_stays_off() -> None:
    """A server without an access log writes none through the common renderer either."""
    uvicorn.Config("app:app", access_log=False)
    stream = io.StringIO()
    configure_logging(stream=stream)
    configure_logging(stream=stream)
    assert not logging.getLogger("uvicorn.access").hasHandlers()
    logging.getLogger("uvicorn.access").warning("served it")
    logging.getLogger("uvicorn.error").warning("failed")
    assert [line["logger"] for line in lines(stream)] == ["uvicorn.error"]


def test_line_has_the_current_trace(provider: TracerProvider) -> None:
    """Lines inside a span carry its trace and span ids, lines outside carry none."""
    stream = io.StringIO()
    configure_logging(stream=stream)
    with provider.get_tracer("test").start_as_current_span("request") as span:
        structlog.get_logger().info("inside")
        logging.getLogger("library").warning("inside too")
    structlog.get_logger().info("outside")
    inside, too, outside = lines(stream)
    context = span.get_span_context()
    for line in (inside, too):
        assert line["trace_id"] == f"{context.trace_id:032x}"
        assert line["span_id"] == f"{context.span_id:016x}"
    assert "trace_id" not in outside


def test_level_holds_for_every_library() -> None:
    """Lines below the level are not written, by any library."""
    stream = io.StringIO()
    configure_logging("WARNING", stream=stream)
    structlog.get_logger().info("below")
    logging.getLogger("library").info("below")
    structlog.get_logger().warning("at")
    assert [line["event"] for line in lines(stream)] == ["at"]


def test_unknown_level_is_an_error() -> None:
    """The error lists the levels."""
    with pytest.raises(ConfigError, match="'loud' is not a log level: write DEBUG, INFO"):
        configure_logging("loud")


def fail(credential: str) -> None:
    raise RuntimeError(len(credential))


@pytest.mark.parametrize("as_json", [True, False])
def test_tracebacks_show_no_variables(as_json: bool) -> None:  # noqa: FBT001 - a parameter
    """An exception is written with its traceback and without the values in its frames."""
    stream = io.StringIO()
    configure_logging(json=as_json, stream=stream)
    try:
        fail(CREDENTIAL)
    except RuntimeError:
        structlog.get_logger().exception("failed")
        logging.getLogger("library").exception("failed too")
    assert stream.getvalue().count("RuntimeError: 7") == 2
    assert CREDENTIAL not in stream.getvalue()


def test_text_is_written_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    """Without JSON a line is text, and the default stream is standard output."""
    configure_logging(json=False)
    structlog.get_logger().info("store.state_lost", replicas=2)
    out = capsys.readouterr().out
    assert "store.state_lost" in out
    assert not out.startswith("{")
