"""The chart's own test of a release, against servers that stand for the services."""

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
    """Says of every request that no policy holds it."""

    def do_GET(self) -> None:
        """Answer."""
        body = b'{"policies": []}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Be quiet."""


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Return a port that refuses connections, which both services are said to be at."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(("127.0.0.1", 0))
        number = int(held.getsockname()[1])
        for name in ("API", "ADMIN"):
            monkeypatch.setenv(name, f"127.0.0.1:{number}")
        for name, value in (("METHOD", "POST"), ("TARGET", "/exports"), ("POD_IP", "10.0.0.1")):
            monkeypatch.setenv(name, value)
        yield number


class Late(ThreadingHTTPServer):
    """A server on a port that somebody else has bound, but does not listen at."""

    allow_reuse_port = True


def test_service_that_is_not_there_yet_is_waited_for(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node may learn the way to pods after they are ready; by then nothing was sent."""
    with contextlib.ExitStack() as served:

        def serve(_seconds: float) -> None:
            server = served.enter_context(Late(("127.0.0.1", port), NoPolicies))
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            served.callback(thread.join)
            served.callback(server.shutdown)

        monkeypatch.setattr(time, "sleep", serve)
        with pytest.raises(SystemExit, match="no policy with a limit below"):
            runpy.run_path(str(LIMIT))


def test_service_that_never_comes_is_told_of(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test ends by itself, and says what to look at."""
    passed = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: passed[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: passed.append(passed.pop() + seconds))
    with pytest.raises(SystemExit, match=f"127.0.0.1:{port} .* kubectl get endpointslices"):
        runpy.run_path(str(LIMIT))
    assert passed[0] >= 30
