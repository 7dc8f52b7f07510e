"""Serves an app behind the limiter on one port, and the admin port beside it.

SIGTERM or Ctrl-C drains: the API stops accepting and finishes what is in flight, the admin port
answers until then, and the limiter is closed last.
"""

import asyncio
import contextlib
import math
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from fleetlimit.bootstrap.build import build_logger
from fleetlimit.bootstrap.fleetlimit import Fleetlimit
from fleetlimit.bootstrap.gc_tuning import freeze
from fleetlimit.bootstrap.settings import Settings
from fleetlimit.errors import ConfigError
from fleetlimit.server.admin.app import Admin, create_admin
from fleetlimit.server.admin.health import Status
from fleetlimit.server.wrap import Front, load_target
from fleetlimit.telemetry import (
    LimiterTracing,
    configure_logging,
    configure_tracing,
)
from fleetlimit.version import __version__


class _Server(uvicorn.Server):
    """A uvicorn server that says when it listens, and leaves signals to who runs several."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.listening.set()

    @property
    def listening_port(self) -> int:
        port: int = self.servers[0].sockets[0].getsockname()[1]
        return port

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(settings: Settings, *, ready: Callable[[int, int], None] | None = None) -> None:
    """Serve until a signal comes.

    Args:
        settings: What to serve, and where.
        ready: Is called with the API's and the admin port's number once both accept.

    Raises:
        ConfigError: A setting, the policy file or the target is wrong.
    """
    configure_logging(settings.log_level, json=settings.log_format == "json", pod=settings.pod)
    config = uvicorn.Config(lambda: None, log_config=None)
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(_serve(settings, ready))


async def _serve(settings: Settings, ready: Callable[[int, int], None] | None) -> None:
    def dropped(spans: int) -> None:
        fleetlimit.metrics.spans_dropped(spans)

    provider = configure_tracing(
        "fleetlimit", version=__version__, instance=settings.replica, dropped=dropped
    )
    fleetlimit = Fleetlimit(
        settings=settings, tracer=LimiterTracing(provider) if provider is not None else None
    )
    async with fleetlimit:
        front = Front(load_target(settings.target), fleetlimit, provider)
        admin = Admin(fleetlimit, front.routes)
        api = _server(front.app, settings.host, settings.port, settings, lifespan="auto")
        side = _server(
            create_admin(admin), settings.admin_host, settings.admin_port, settings, lifespan="off"
        )
        await _run(api, side, admin, ready)
    if provider is not None:
        await asyncio.to_thread(provider.shutdown)


def _server(app: object, host: str, port: int, settings: Settings, *, lifespan: str) -> _Server:
    return _Server(
        uvicorn.Config(
            app,  # type: ignore[arg-type]  # an ASGI app; uvicorn's own types are narrower
            host=host,
            port=port,
            lifespan=lifespan,  # type: ignore[arg-type]  # one of uvicorn's words
            log_config=None,
            access_log=False,
            # The peer's address and the forwarding headers are read by the limiter itself, which
            # trusts the proxies that its policy file names and nobody else.
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=math.ceil(settings.shutdown_seconds),
        )
    )


async def _run(
    api: _Server, side: _Server, admin: Admin, ready: Callable[[int, int], None] | None
) -> None:
    log = build_logger("fleetlimit")
    loop = asyncio.get_running_loop()

    def drain() -> None:
        # A second signal does not wait for what is in flight.
        api.force_exit = api.should_exit
        api.should_exit = True
        admin.status = Status.DRAINING

    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, drain)
    beside = loop.create_task(_accepting(side))
    serving = loop.create_task(_accepting(api))
    telling = loop.create_task(_tell(api, side, admin, log, ready))
    try:
        await asyncio.wait({beside, serving}, return_when=asyncio.FIRST_COMPLETED)
        drain()
        await serving
    finally:
        telling.cancel()
        side.should_exit = True
        await beside
    log.info("service.stopped")


async def _accepting(server: _Server) -> None:
    # uvicorn logs why it does not start, and leaves: how, depends on its version.
    with contextlib.suppress(SystemExit):
        await server.serve()
    if server.lifespan.should_exit and not server.started:
        raise ConfigError("the app did not start: see the log above")
    if not server.started:
        where = f"{server.config.host}:{server.config.port}"
        raise ConfigError(f"cannot listen on {where}: choose another port or address")


async def _tell(
    api: _Server, side: _Server, admin: Admin, log: Any, ready: Callable[[int, int], None] | None
) -> None:
    await api.listening.wait()
    await side.listening.wait()
    freeze()
    if admin.status is Status.STARTING:
        admin.status = Status.READY
    log.info("service.ready", port=api.listening_port, admin_port=side.listening_port)
    if ready is not None:
        ready(api.listening_port, side.listening_port)
