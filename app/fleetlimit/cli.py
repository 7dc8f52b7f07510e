"""The command `fleetlimit`: serve, try, and ask what a policy file does."""

import asyncio
import json
import sys
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer

from fleetlimit.bootstrap.build import build_identifier
from fleetlimit.bootstrap.explain import explain, render
from fleetlimit.bootstrap.fleetlimit import Fleetlimit
from fleetlimit.bootstrap.settings import Settings
from fleetlimit.demo.command import main as run_demo
from fleetlimit.demo.options import DemoOptions
from fleetlimit.errors import FleetlimitError
from fleetlimit.policy_file import json_schema, load
from fleetlimit.server.runner import serve as serve_forever
from fleetlimit.server.wrap import WrappedApp, import_app

app = typer.Typer(
    help="Rate limiting for FastAPI that holds across every replica.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
policies_app = typer.Typer(help="Check and explain policy files.", no_args_is_help=True)
app.add_typer(policies_app, name="policies")

BUNDLED_POLICIES = Path(str(files("fleetlimit.server") / "policies.yaml"))

Store = Annotated[
    str | None, typer.Option(help="URL of the shared store, or memory://. [FLEETLIMIT_STORE]")
]
PolicyFile = Annotated[Path | None, typer.Option(help="Policy file. [FLEETLIMIT_POLICIES]")]


@app.command()
def serve(
    target: Annotated[
        str | None, typer.Argument(help="App to serve; the bundled service when left out.")
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
    store: Store = None,
    policies: PolicyFile = None,
) -> None:
    """Serve an app with the limiter, telemetry and health in front of it."""
    serve_forever(
        _load_settings(
            target=target,
            host=host,
            port=port,
            admin_host=admin_host,
            admin_port=admin_port,
            store=store,
            policies=policies,
        )
    )


def _load_settings(**overrides: Any) -> Settings:
    """Read the settings; the bundled service brings its own policies."""
    settings = Settings.load(**overrides)
    if settings.policies is None and not settings.target:
        return settings.model_copy(update={"policies": BUNDLED_POLICIES})
    return settings


@app.command()
def demo(
    replicas: Annotated[int, typer.Option(min=1, max=16, help="Replicas of the service.")] = 3,
    requests: Annotated[
        int, typer.Option(min=1, max=100_000, help="Requests, over all replicas.")
    ] = 2_000,
    principals: Annotated[int, typer.Option(min=1, max=50, help="Callers with an API key.")] = 5,
    store: Annotated[
        str | None,
        typer.Option(help="URL; an embedded Valkey when left out, memory:// to see it fail."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    svg: Annotated[Path | None, typer.Option(help="Save a picture of the result.")] = None,
) -> None:
    """Show that the limit holds over several replicas; exit with 1 if it does not."""
    raise typer.Exit(run_demo(DemoOptions(replicas, requests, principals, store, as_json, svg)))


@policies_app.command()
def validate(
    file: Annotated[Path, typer.Argument(help="Policy file.")],
) -> None:
    """Check a policy file; exit with 1 and every fault if it is wrong."""
    policy_file = load(file)
    # The files that it names are part of it: a wrong one would keep a service from starting.
    build_identifier(policy_file.identity)
    typer.echo(f"{file}: {len(policy_file.policy_set.policies)} policies, no fault", err=True)


@policies_app.command()
def schema() -> None:
    """Print the JSON Schema of policy files, for editors."""
    typer.echo(json.dumps(json_schema(), indent=2))


@policies_app.command("explain")
def explain_command(
    method: Annotated[str, typer.Argument(help="Method, or WEBSOCKET.")],
    path: Annotated[str, typer.Argument(help="Path, such as /items/1.")],
    header: Annotated[
        list[str] | None, typer.Option(help="Header of the request, as 'Name: value'.")
    ] = None,
    address: Annotated[str, typer.Option(help="Address it comes from.")] = "127.0.0.1",
    target: Annotated[
        str | None, typer.Option(help="App whose routes count; the bundled service by default.")
    ] = None,
    store: Store = None,
    policies: PolicyFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell which policies would hold a request, and how it stands; nothing is spent."""
    headers = {}
    for each in header or []:
        name, colon, value = each.partition(":")
        if not colon:
            raise typer.BadParameter(f"{each!r} is no header: write 'Name: value'")
        headers[name.strip()] = value.strip()
    settings = _load_settings(target=target, store=store, policies=policies)

    async def run() -> dict[str, Any]:
        fleetlimit = Fleetlimit(settings=settings)
        fleetlimit.limiter.active_policies.replace(fleetlimit.policy_file.policy_set)
        try:
            wrapped = WrappedApp(import_app(settings.target), fleetlimit)
            return await explain(
                fleetlimit.http_limiter,
                wrapped.routes,
                method=method,
                path=path,
                headers=headers,
                peer=address,
            )
        finally:
            await fleetlimit.aclose()

    explanation = asyncio.run(run())
    typer.echo(json.dumps(explanation, indent=2) if as_json else render(explanation))


def main() -> None:
    """Run the command; an error that was foreseen is one message and exit status 1."""
    try:
        app()
    except FleetlimitError as error:
        typer.secho(str(error), fg="red", err=True)
        sys.exit(1)
