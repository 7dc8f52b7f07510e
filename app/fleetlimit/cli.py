"""Command line of Fleetlimit: `serve`, `demo`, and `policies` to check and explain policy files.

A command imports its modules when it runs, because they belong to different extras.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fleetlimit.errors import ConfigError, FleetlimitError

app = typer.Typer(
    help="Rate limiting for FastAPI that holds across every replica.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
policies_app = typer.Typer(help="Check and explain policy files.", no_args_is_help=True)
app.add_typer(policies_app, name="policies")

StoreOption = Annotated[
    str | None, typer.Option(help="URL of the shared store, or memory://. [FLEETLIMIT_STORE]")
]
FactoryOption = Annotated[
    bool | None,
    typer.Option("--factory", help="The app is a function that creates it. [FLEETLIMIT_FACTORY]"),
]
PoliciesOption = Annotated[Path | None, typer.Option(help="Policy file. [FLEETLIMIT_POLICIES]")]


@app.command()
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
        )
        runner.serve(settings)
    except FleetlimitError as error:
        if sys.stdout.isatty():
            raise
        runner.log_failure(error, settings)
        raise typer.Exit(1) from error


@app.command()
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


@policies_app.command()
def validate(
    file: Annotated[Path, typer.Argument(help="Policy file.")],
    target: Annotated[
        str | None,
        typer.Option(help="App as package.module:app, whose routes the policies must match."),
    ] = None,
    factory: Annotated[
        bool, typer.Option("--factory", help="The app is a function that creates it.")
    ] = False,
) -> None:
    """Check a policy file and the files that it names; exit with 1 and each error if invalid."""
    from fleetlimit.bootstrap.identity import IdentifierBuilder
    from fleetlimit.policy_file import load

    policy_file = load(file)
    # Reads the API keys and the JWKS: a wrong one prevents the start of a server.
    IdentifierBuilder().build(policy_file.identity)
    if target is not None:
        _check_routes(file, target, factory=factory)
    typer.echo(f"{file}: {len(policy_file.policy_set.policies)} policies, no error", err=True)


def _check_routes(file: Path, target: str, *, factory: bool) -> None:
    """Print a warning for each policy that may apply to no request.

    Raises:
        ConfigError: A policy applies to no route of the app; the message lists all of them.
    """
    from starlette.applications import Starlette

    from fleetlimit.bootstrap.fleetlimit import Fleetlimit
    from fleetlimit.bootstrap.settings import Settings
    from fleetlimit.server.wrap import import_app
    from fleetlimit.web.route_table import get_app_route_table

    app = import_app(target, factory=factory)
    if not isinstance(app, Starlette):
        raise ConfigError(
            f"the routes of {target} cannot be read: it is no FastAPI or Starlette app"
        )
    fleetlimit = Fleetlimit(policies=file, settings=Settings(store="memory://"))
    policy_set = fleetlimit.policy_file.policy_set
    fleetlimit.activate_policies()
    # The middleware that an app lacks is added by `fleetlimit serve`.
    routes = get_app_route_table(app.router)
    fleetlimit.route_reporter.add_routes(routes, match_policies=True)
    unused = [*fleetlimit.route_reporter.find_unused(policy_set)]
    for each in unused:
        if not each.is_certain:
            typer.echo(f"{file}: warning: {each.detail}", err=True)
    if errors := [f"{file}: {each.detail}" for each in unused if each.is_certain]:
        raise ConfigError("\n".join(errors))


@policies_app.command()
def schema() -> None:
    """Print the JSON Schema of policy files, for editors."""
    from fleetlimit.policy_file import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


@policies_app.command("explain")
def explain_command(
    method: Annotated[str, typer.Argument(help="Method, or WEBSOCKET.")],
    path: Annotated[str, typer.Argument(help="Path, such as /items/1.")],
    header: Annotated[
        list[str] | None, typer.Option(help="Header of the request, as 'Name: value'.")
    ] = None,
    address: Annotated[str, typer.Option(help="Address of the client.")] = "127.0.0.1",
    principal: Annotated[
        str | None, typer.Option(help="Caller, in place of the one that the headers identify.")
    ] = None,
    tier: Annotated[str, typer.Option(help="Tier of that caller.")] = "",
    target: Annotated[
        str | None, typer.Option(help="App as package.module:app; by default the example app.")
    ] = None,
    store: StoreOption = None,
    policies: PoliciesOption = None,
    factory: FactoryOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the policies that apply to a request and the state of their limits; spend nothing."""
    from fleetlimit.bootstrap.explain import explain, parse_request, render
    from fleetlimit.bootstrap.fleetlimit import Fleetlimit
    from fleetlimit.server.settings import ServerSettings
    from fleetlimit.server.wrap import WrappedApp, import_app

    request = parse_request(
        method,
        path,
        headers=header or (),
        client_address=address,
        principal=principal,
        tier=tier,
    )
    settings = ServerSettings.load(target=target, store=store, policies=policies, factory=factory)

    async def run() -> dict[str, Any]:
        fleetlimit = Fleetlimit(settings=settings)
        fleetlimit.activate_policies()
        try:
            app = import_app(settings.target, factory=settings.factory)
            wrapped = WrappedApp(app, fleetlimit)
            return await explain(fleetlimit.http_limiter, wrapped.match_route, request)
        finally:
            await fleetlimit.aclose()

    explanation = asyncio.run(run())
    typer.echo(json.dumps(explanation, indent=2) if as_json else render(explanation))


def main() -> None:
    """Run the command. A `FleetlimitError` is printed as one message, with exit status 1."""
    try:
        app()
    except FleetlimitError as error:
        typer.secho(str(error), fg="red", err=True)
        sys.exit(1)
