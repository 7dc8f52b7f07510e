"""Tests of the script that `helm test` runs, against a local HTTP server."""

import contextlib
import json
import runpy
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

LIMIT = Path(__file__).parents[2] / "charts/fleetlimit/files/limit.py"


class Answers(BaseHTTPRequestHandler):
    """Answers each request with the next of `queue`: a status and headers."""

    queue: ClassVar["Responses"] = []
    ready: ClassVar[bytes] = b"not the admin port"

    def do_POST(self) -> None:
        """Send the next response; without one, a response without a limit."""
        status, headers = self.queue.pop(0) if self.queue else (200, {})
        self.send_response(status)
        for name, value in {**headers, "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()

    def do_GET(self) -> None:
        """Send the report of `/readyz`."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.ready)))
        self.end_headers()
        self.wfile.write(self.ready)

    def log_message(self, *_: object) -> None:
        """Suppress the log of requests."""


Responses = list[tuple[int, dict[str, str]]]


def limited(*remaining: int, cost_of_other: int = 0) -> Responses:
    """Return an admitted response for each number of remaining units."""
    return [
        (200, {"RateLimit": f'"exports";r={units};t=7, "other.tb";r={90 - at * cost_of_other}'})
        for at, units in enumerate(remaining)
    ]


REJECTED = (429, {"Retry-After": "9"})


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Return a port that refuses connections, configured as the port of the API."""
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(("127.0.0.1", 0))
        number = int(reserved.getsockname()[1])
        monkeypatch.setenv("API", f"127.0.0.1:{number}")
        monkeypatch.setenv("ADMIN", f"127.0.0.1:{number}")
        monkeypatch.setenv("METHOD", "POST")
        monkeypatch.setenv("TARGET", "/exports")
        yield number


class LateServer(ThreadingHTTPServer):
    """Server on a port that the fixture `port` has bound without listening."""

    allow_reuse_port = True


def test_connect_retries_until_service_listens(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused connections are retried, because nodes route to ready pods with a delay."""
    with contextlib.ExitStack() as stack:

        def serve(_seconds: float) -> None:
            server = stack.enter_context(LateServer(("127.0.0.1", port), Answers))
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)

        monkeypatch.setattr(time, "sleep", serve)
        with pytest.raises(SystemExit, match="no policy with a limit below"):
            runpy.run_path(str(LIMIT))


@pytest.fixture
def answers(port: int) -> Iterator[Responses]:
    """Run the API, and return the list of its next responses."""
    with LateServer(("127.0.0.1", port), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield Answers.queue
        server.shutdown()
        thread.join()
    Answers.queue.clear()


@pytest.mark.parametrize(
    ("responses", "admitted"),
    [
        ([*limited(4, 3, 2, 1, 0), REJECTED], 5),
        # A request may cost several units, and the limit with the fewest requests counts.
        ([*limited(20, 10, 0), REJECTED], 3),
        ([*limited(80, 79, 78, cost_of_other=40), REJECTED], 3),
        ([*limited(0), REJECTED], 1),
        ([(200, {"X-RateLimit-Remaining": str(left)}) for left in (2, 1, 0)] + [REJECTED], 3),
    ],
)
def test_counts_the_requests_by_the_headers(
    answers: Responses, responses: Responses, admitted: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The script sends as many requests as the headers state, and one more."""
    answers += responses
    runpy.run_path(str(LIMIT))
    assert capsys.readouterr().out == (
        f"POST /exports: {admitted} requests admitted, 1 rejected for 9 s\n"
    )
    assert not answers


def test_waits_for_a_spent_limit(
    answers: Responses, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rejected first request is repeated at the time of Retry-After."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    answers += [REJECTED, *limited(1, 0), REJECTED]
    runpy.run_path(str(LIMIT))
    assert slept[0] == 9
    assert "2 requests admitted" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("responses", "message"),
    [
        (limited(4, 3, 3, 3, 3, 3), "had the statuses .* instead of one 429"),
        ([*limited(2, 1), REJECTED, REJECTED], "had the statuses"),
        ([*limited(1, 0), (503, {"Retry-After": "1"})], "had the statuses .*503"),
        ([*limited(1, 0), (429, {})], "no header Retry-After"),
        (limited(900, 899), "no policy with a limit below 500"),
        (limited(3, 3), "no policy with a limit below 500"),
    ],
)
def test_fails_with_the_reason(answers: Responses, responses: Responses, message: str) -> None:
    """Limits that pods do not share, and requests without a limit, fail the test."""
    answers += responses
    with pytest.raises(SystemExit, match=message):
        runpy.run_path(str(LIMIT))


@pytest.mark.parametrize(
    ("store", "end"),
    [
        ({"status": "ok"}, "share their limits$"),
        (
            {"status": "unavailable", "failures": ["authentication"]},
            r"The store is unavailable \(authentication\)",
        ),
    ],
)
def test_fails_with_the_failure_of_the_store(
    answers: Responses, monkeypatch: pytest.MonkeyPatch, store: dict[str, object], end: str
) -> None:
    """The admin port names the kind of failure, such as a wrong password."""
    monkeypatch.setattr(Answers, "ready", json.dumps({"store": store}).encode())
    answers += [*limited(1, 0), (503, {"Retry-After": "1"})]
    with pytest.raises(SystemExit, match=end):
        runpy.run_path(str(LIMIT))


def test_connect_gives_up_with_a_hint(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script exits after 30 s with the command that shows the cause."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.append(now.pop() + seconds))
    with pytest.raises(SystemExit, match=f"127.0.0.1:{port} .* kubectl get endpointslices"):
        runpy.run_path(str(LIMIT))
    assert now[0] >= 30


def test_connect_names_another_failure(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name without an address, and a NetworkPolicy, fail like a refused connection."""
    del port  # for its variables
    # TCP has no route to the address of all hosts.
    monkeypatch.setenv("API", "255.255.255.255:80")
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.append(now.pop() + seconds))
    with pytest.raises(SystemExit, match=r"cannot be reached \(.+networkpolicies"):
        runpy.run_path(str(LIMIT))
