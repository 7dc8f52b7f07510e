"""Commands that serve requests: `serve`, and `demo`, which starts replicas and measures them."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from fleetlimit.cli.options import FactoryOption, PoliciesOption, StoreOption
from fleetlimit.errors import ConfigError, FleetlimitError


def serve(
    target: Annotated[
        str | None, typer.Argument(help="App as package.module:app; by default the example app.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address of the API. [FLEETLIMIT_HOST]")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port of the API; 8000. [FLEETLIMIT_PORT]")
    ] = None,
    admin_host: Annotated[
        str | None, typer.Option(help="Address of the admin port. [FLEETLIMIT_ADMIN_HOST]")
    ] = None,
    admin_port: Annotated[
        int | None, typer.Option(help="Admin port; 9090. [FLEETLIMIT_ADMIN_PORT]")
    ] = None,
    store: StoreOption = None,
    policies: PoliciesOption = None,
    factory: FactoryOption = None,
    log_format: Annotated[
        str | None,
        typer.Option(
            help="auto, human or json; auto is human on a terminal, else json. "
            "[FLEETLIMIT_LOG_FORMAT]"
        ),
    ] = None,
) -> None:
    """Serve an app behind the limiter, with telemetry and an admin port."""
    try:
        from fleetlimit.server import runner
    except ModuleNotFoundError as error:
        if error.name != "uvicorn":
            raise
        raise ConfigError(
            "`fleetlimit serve` needs uvicorn: pip install 'fleetlimit[server]'"
        ) from error
    from fleetlimit.server.settings import ServerSettings

    settings = None
    try:
        settings = ServerSettings.load(
            target=target,
            host=host,
            port=port,
            admin_host=admin_host,
            admin_port=admin_port,
            store=store,
            policies=policies,
            factory=factory,
            log_format=log_format,
        )
        runner.serve(settings)
    except FleetlimitError as error:
        if sys.stdout.isatty():
            raise
        runner.log_failure(error, settings)
        raise typer.Exit(1) from error


def demo(
    replicas: Annotated[int, typer.Option(min=1, max=16, help="Number of replicas.")] = 3,
    requests: Annotated[
        int, typer.Option(min=1, max=100_000, help="Number of requests to all replicas.")
    ] = 2_000,
    principals: Annotated[
        int, typer.Option(min=1, max=50, help="Number of callers with an API key.")
    ] = 5,
    store: Annotated[
        str | None,
        typer.Option(help="Store URL; by default an embedded Valkey. memory:// shows a failure."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    svg: Annotated[Path | None, typer.Option(help="File for a picture of the result.")] = None,
) -> None:
    """Show that a limit holds over several replicas; exit with 1 if it does not."""
    from fleetlimit.demo.options import DemoOptions, require

    options = DemoOptions(replicas, requests, principals, store, as_json, svg)
    require("httpx", "rich")
    from fleetlimit.demo.run import run

    raise typer.Exit(run(options))
