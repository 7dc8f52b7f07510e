"""Server process: an app behind the limiter on one port, and the admin app on another.

SIGTERM or Ctrl-C drains the process. The API stops accepting connections and finishes the requests
in flight, then the admin port stops, and the limiter is closed last.
"""

import asyncio
import contextlib
import math
import signal
import socket
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

import uvicorn

from fleetlimit.bootstrap.build import build_logger
from fleetlimit.bootstrap.fleetlimit import Fleetlimit
from fleetlimit.bootstrap.gc_tuning import freeze_heap
from fleetlimit.bootstrap.settings import reveal
from fleetlimit.errors import ConfigError, FleetlimitError
from fleetlimit.server.admin.allowed_hosts import parse_hosts
from fleetlimit.server.admin.app import AdminState, create_admin_app
from fleetlimit.server.admin.health import ReplicaStatus
from fleetlimit.server.bounded_protocol import BoundedProtocol, RequestBounds
from fleetlimit.server.listening import ALL_ADDRESSES, bind_all
from fleetlimit.server.settings import ServerSettings
from fleetlimit.server.wrap import WrappedApp, import_app
from fleetlimit.telemetry import (
    OpenTelemetryTracer,
    configure_logging,
    configure_tracing,
)
from fleetlimit.telemetry.names import LOG_SERVICE_FAILED
from fleetlimit.version import __version__
from fleetlimit.web.serving_limiter import serving

MAX_ADMIN_CONNECTIONS: Final = 100
"""Far above what scrapers, probes and operators open."""
_TICKS_PER_SECOND: Final = 10


class _UvicornServer(uvicorn.Server):
    """uvicorn server with an event for the start of listening, and without signal handlers.

    Once a second it closes the connections whose clients did not complete a head in time.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.listening.set()

    async def on_tick(self, counter: int) -> bool:
        if counter % _TICKS_PER_SECOND == 0:
            now = asyncio.get_running_loop().time()
            for connection in tuple(self.server_state.connections):
                if isinstance(connection, BoundedProtocol):
                    connection.close_if_late(now)
        return await super().on_tick(counter)

    @property
    def listening_port(self) -> int:
        port: int = self.servers[0].sockets[0].getsockname()[1]
        return port

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(settings: ServerSettings, *, on_ready: Callable[[int, int], None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        settings: The app, its addresses and the limiter's settings.
        on_ready: Called with the numbers of the API port and the admin port once both accept
            connections.

    Raises:
        ConfigError: A setting, the policy file or the target is invalid.
    """
    configure_logging(settings.log_level, json=settings.logs_json, pod=settings.pod)
    # uvicorn chooses the event loop: uvloop if it is installed.
    config = uvicorn.Config(lambda: None, log_config=None)
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(_serve(settings, on_ready))


def log_failure(error: FleetlimitError, settings: ServerSettings | None) -> None:
    """Log that the server did not start, as the last line of the process.

    Kubernetes shows the end of the log in `kubectl describe pod`.

    Args:
        error: The reason.
        settings: The settings; None if the error is about them.
    """
    json, pod = (settings.logs_json, settings.pod) if settings is not None else (True, "")
    configure_logging(json=json, pod=pod)
    build_logger("fleetlimit").error(LOG_SERVICE_FAILED, detail=str(error))


async def _serve(settings: ServerSettings, on_ready: Callable[[int, int], None] | None) -> None:
    def on_spans_dropped(spans: int) -> None:
        # Called after the start only: the tracer of the limiter needs the provider first.
        fleetlimit.metrics.on_spans_dropped(spans)

    provider = configure_tracing(
        "fleetlimit", version=__version__, instance=settings.replica, on_dropped=on_spans_dropped
    )
    fleetlimit = Fleetlimit(
        settings=settings,
        tracer=OpenTelemetryTracer(provider) if provider is not None else None,
        tune_gc=True,
    )
    async with fleetlimit:
        wrapped = WrappedApp(
            import_app(settings.target, factory=settings.factory),
            fleetlimit,
            provider,
            trace_parents_per_second=settings.trace_parents_per_second,
        )
        admin_state = AdminState(fleetlimit, wrapped, reveal(settings.admin_token))
        api_server = _make_server(
            wrapped.app,
            settings.host,
            settings.port,
            settings,
            settings.max_connections,
            lifespan="auto",
            ws="auto",
        )
        admin_server = _make_server(
            create_admin_app(admin_state, parse_hosts(settings.admin_allowed_hosts)),
            settings.admin_host,
            settings.admin_port,
            settings,
            MAX_ADMIN_CONNECTIONS,
            lifespan="off",
            ws="none",
        )
        with serving(fleetlimit, opaque=wrapped.opaque):
            await _run_servers(api_server, admin_server, admin_state, on_ready)
    if provider is not None:
        await asyncio.to_thread(provider.shutdown)


def _make_server(
    app: object,
    host: str,
    port: int,
    settings: ServerSettings,
    max_connections: int,
    *,
    lifespan: str,
    ws: str,
) -> _UvicornServer:
    bounds = RequestBounds(
        max_head_bytes=settings.max_head_bytes,
        max_headers=settings.max_headers,
        head_timeout_s=settings.head_timeout,
        max_connections=max_connections,
    )
    return _UvicornServer(
        uvicorn.Config(
            app,  # type: ignore[arg-type]  # uvicorn's types of an ASGI app are narrower
            host=host,
            port=port,
            http=partial(BoundedProtocol, bounds=bounds),  # type: ignore[arg-type]  # called only
            ws=ws,
            lifespan=lifespan,  # type: ignore[arg-type]  # "auto" or "off"
            log_config=None,
            access_log=False,
            # The limiter reads the forwarding headers itself, and only from the trusted proxies of
            # its policy file.
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=math.ceil(settings.keep_alive),
            timeout_graceful_shutdown=math.ceil(settings.shutdown_seconds),
        )
    )


async def _run_servers(
    api_server: _UvicornServer,
    admin_server: _UvicornServer,
    admin_state: AdminState,
    on_ready: Callable[[int, int], None] | None,
) -> None:
    log = build_logger("fleetlimit")
    loop = asyncio.get_running_loop()

    def drain() -> None:
        # A second signal ends the process without waiting for the requests in flight.
        api_server.force_exit = api_server.should_exit
        api_server.should_exit = True
        admin_state.status = ReplicaStatus.DRAINING

    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, drain)
    admin_task = loop.create_task(_run_server(admin_server))
    api_task = loop.create_task(_run_server(api_server))
    ready_task = loop.create_task(
        _announce_ready(api_server, admin_server, admin_state, log, on_ready)
    )
    try:
        await asyncio.wait({admin_task, api_task}, return_when=asyncio.FIRST_COMPLETED)
        drain()
        await api_task
    finally:
        ready_task.cancel()
        admin_server.should_exit = True
        await admin_task
    log.info("service.stopped")


async def _run_server(server: _UvicornServer) -> None:
    # uvicorn logs why it cannot start. Some versions then raise SystemExit, others return.
    config = server.config
    sockets = bind_all(config.port) if config.host == ALL_ADDRESSES else None
    try:
        with contextlib.suppress(SystemExit):
            await server.serve(sockets)
    finally:
        for each in sockets or ():
            each.close()
    if server.lifespan.should_exit and not server.started:
        raise ConfigError("the app did not start: see the log above")
    if not server.started:
        address = f"{server.config.host}:{server.config.port}"
        raise ConfigError(f"cannot listen on {address}: choose another port or address")


async def _announce_ready(
    api_server: _UvicornServer,
    admin_server: _UvicornServer,
    admin_state: AdminState,
    log: Any,
    on_ready: Callable[[int, int], None] | None,
) -> None:
    await api_server.listening.wait()
    await admin_server.listening.wait()
    freeze_heap()
    if admin_state.status is ReplicaStatus.STARTING:
        admin_state.status = ReplicaStatus.READY
    log.info(
        "service.ready", port=api_server.listening_port, admin_port=admin_server.listening_port
    )
    if on_ready is not None:
        on_ready(api_server.listening_port, admin_server.listening_port)
