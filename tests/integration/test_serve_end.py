"""Start and shutdown of the service: requests in flight finish, and errors name their cause."""

import asyncio
import contextlib
import signal
import socket
from pathlib import Path

import pytest

from support.eventually import eventually_async
from support.server import ServeProcess, receive, send

TARGET = """
import asyncio
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

app = FastAPI()


@app.get("/slow")
async def slow():
    async def produce():
        yield "first\\n"
        while not Path("go").exists():
            await asyncio.sleep(0.01)
        yield "last\\n"

    return StreamingResponse(produce(), media_type="text/plain")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "slow.py").write_text(TARGET)
    return tmp_path


async def rejects_connections(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return True
    writer.close()
    return False


async def test_sigterm_completes_a_stream(folder: Path) -> None:
    """A response in flight completes, new connections are refused, and the exit status is 0."""
    with ServeProcess("slow:app", folder=folder) as service:
        await service.ready()
        assert (await service.admin("/readyz")).json["status"] == "ready"
        reader, writer = await send(service.port, "/slow")
        with contextlib.closing(writer):
            head = await reader.readuntil(b"first\n")
            service.signal(signal.SIGTERM)
            await eventually_async(lambda: rejects_connections(service.port))
            readyz = await service.admin("/readyz")
            assert (readyz.status, readyz.json["status"]) == (503, "draining")
            assert (await service.admin("/livez")).status == 200
            (folder / "go").touch()
            rest = await reader.read()
        assert head.startswith(b"HTTP/1.1 200")
        assert rest.endswith(b"last\n\r\n0\r\n\r\n")
        assert await service.ended() == 0
        assert service.logged("service.stopped")


async def test_second_signal_ends_the_process_at_once(folder: Path) -> None:
    """A second signal does not wait for the requests in flight."""
    with ServeProcess("slow:app", folder=folder) as service:
        await service.ready()
        reader, writer = await send(service.port, "/slow")
        with contextlib.closing(writer):
            await reader.readuntil(b"first\n")
            service.signal(signal.SIGTERM)
            await eventually_async(lambda: rejects_connections(service.port))
            service.signal(signal.SIGINT)
            assert await service.ended() == 0


async def test_draining_is_bounded(folder: Path) -> None:
    """A response that never ends is cut after the time for draining."""
    with ServeProcess(
        "slow:app", folder=folder, settings={"FLEETLIMIT_SHUTDOWN_SECONDS": "0.1"}
    ) as service:
        await service.ready()
        reader, writer = await send(service.port, "/slow")
        with contextlib.closing(writer):
            await reader.readuntil(b"first\n")
            assert await service.stop() == 0


async def test_failed_start_reports_its_cause(tmp_path: Path) -> None:
    """A wrong file, port, app or dependency ends the start with status 1 and its cause."""
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(
        "version: 1\npolicies:\n  - name: default\n    limits: [{rate: 5/sometimes}]\n"
    )
    (tmp_path / "dependent.py").write_text(
        "from fastapi import Depends, FastAPI\n"
        "from fleetlimit import PolicyLimit\n"
        "app = FastAPI()\n"
        "@app.get('/', dependencies=[Depends(PolicyLimit('gone'))])\n"
        "async def root(): ...\n"
    )
    (tmp_path / "broken.py").write_text(
        "import contextlib\n"
        "from fastapi import FastAPI\n"
        "@contextlib.asynccontextmanager\n"
        "async def lifespan(app):\n"
        "    raise RuntimeError('no database')\n"
        "    yield\n"
        "app = FastAPI(lifespan=lifespan)\n"
    )
    with contextlib.ExitStack() as stack:
        taken = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = taken.getsockname()[1]

        def start(*arguments: str) -> ServeProcess:
            return stack.enter_context(ServeProcess(*arguments, folder=tmp_path))

        expected = {
            start("--policies", str(wrong)): "wrong.yaml:4: ",
            start("--port", str(port)): f"cannot listen on 127.0.0.1:{port}",
            start("--admin-port", str(port)): f"cannot listen on 127.0.0.1:{port}",
            start("dependent:app"): "there is no policy 'gone'",
            start("broken:app"): "the app did not start",
        }
        for service, message in expected.items():
            assert await service.ended() == 1, service.output
            assert message in service.output[-1]
            assert not service.logged("service.ready")
            assert "Traceback" not in service.output[-1]


async def test_readyz_is_503_while_the_app_starts(folder: Path) -> None:
    """While the app starts, the admin port responds that it is not ready."""
    (folder / "starting.py").write_text(
        "import asyncio, contextlib\n"
        "from pathlib import Path\n"
        "from fastapi import FastAPI\n"
        "@contextlib.asynccontextmanager\n"
        "async def lifespan(app):\n"
        "    while not Path('go').exists():\n"
        "        await asyncio.sleep(0.01)\n"
        "    yield\n"
        "    Path('ended').touch()\n"
        "app = FastAPI(lifespan=lifespan)\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with ServeProcess("starting:app", "--admin-port", str(port), folder=folder) as service:
        reader, writer = await eventually_async(lambda: connect(port))
        with contextlib.closing(writer):
            readyz = await receive(reader)
        assert (readyz.status, readyz.json["status"]) == (503, "starting")
        (folder / "go").touch()
        await service.ready()
        assert (await service.admin("/readyz")).status == 200
        assert await service.stop() == 0
        assert (folder / "ended").exists()


async def connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
    with contextlib.suppress(OSError):
        return await send(port, "/readyz")
    return None
