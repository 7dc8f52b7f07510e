"""Tests of the script that `helm test` runs, against a local HTTP server."""

import contextlib
import runpy
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

LIMIT = Path(__file__).parents[2] / "charts/fleetlimit/files/limit.py"


class NoPolicies(BaseHTTPRequestHandler):
    """Answers `/explain` for a request to which no policy applies."""

    def do_GET(self) -> None:
        """Send the explanation."""
        body = b'{"policies": []}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Suppress the log of requests."""


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Return a port that refuses connections, configured as the port of both Services."""
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(("127.0.0.1", 0))
        number = int(reserved.getsockname()[1])
        for name in ("API", "ADMIN"):
            monkeypatch.setenv(name, f"127.0.0.1:{number}")
        for name, value in (("METHOD", "POST"), ("TARGET", "/exports"), ("POD_IP", "10.0.0.1")):
            monkeypatch.setenv(name, value)
        yield number


class LateServer(ThreadingHTTPServer):
    """Server on a port that the fixture `port` has bound without listening."""

    allow_reuse_port = True


def test_connect_retries_until_service_listens(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused connections are retried, because nodes route to ready pods with a delay."""
    with contextlib.ExitStack() as stack:

        def serve(_seconds: float) -> None:
            server = stack.enter_context(LateServer(("127.0.0.1", port), NoPolicies))
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)

        monkeypatch.setattr(time, "sleep", serve)
        with pytest.raises(SystemExit, match="no policy with a limit below"):
            runpy.run_path(str(LIMIT))


def test_connect_gives_up_with_a_hint(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script exits after 30 s with the command that shows the cause."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.append(now.pop() + seconds))
    with pytest.raises(SystemExit, match=f"127.0.0.1:{port} .* kubectl get endpointslices"):
        runpy.run_path(str(LIMIT))
    assert now[0] >= 30
