"""The command `headgate`: serve, try, and ask what a policy file does."""

import asyncio
import json
import sys
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from headgate.core.errors import HeadgateError
from headgate.policies import json_schema, load
from headgate.server.explain import explain
from headgate.server.front import Front, load_target
from headgate.server.headgate import Headgate
from headgate.server.serve import serve as serve_forever
from headgate.server.settings import Settings

app = typer.Typer(
    help="Rate limiting for FastAPI that holds across every replica.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
policies_app = typer.Typer(help="Check and explain policy files.", no_args_is_help=True)
app.add_typer(policies_app, name="policies")

BUNDLED_POLICIES = Path(str(files("headgate.server") / "policies.yaml"))
_console = Console(stderr=True, highlight=False)

Store = Annotated[
    str | None, typer.Option(help="URL of the shared store, or memory://. [HEADGATE_STORE]")
]
PolicyFile = Annotated[Path | None, typer.Option(help="Policy file. [HEADGATE_POLICIES]")]


@app.command()
def serve(
    target: Annotated[
        str | None, typer.Argument(help="App to serve; the bundled service when left out.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address of the API. [HEADGATE_HOST]")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the API; 8000. [HEADGATE_PORT]")] = None,
    admin_host: Annotated[
        str | None, typer.Option(help="Address of the admin port. [HEADGATE_ADMIN_HOST]")
    ] = None,
    admin_port: Annotated[
        int | None, typer.Option(help="Admin port; 9090. [HEADGATE_ADMIN_PORT]")
    ] = None,
    store: Store = None,
    policies: PolicyFile = None,
) -> None:
    """Serve an app with the limiter, telemetry and health in front of it."""
    serve_forever(
        _settings(
            target=target,
            host=host,
            port=port,
            admin_host=admin_host,
            admin_port=admin_port,
            store=store,
            policies=policies,
        )
    )


def _settings(**given: Any) -> Settings:
    """Read the settings; the bundled service brings its own policies."""
    settings = Settings.read(**given)
    if settings.policies is None and not settings.target:
        return settings.model_copy(update={"policies": BUNDLED_POLICIES})
    return settings


@policies_app.command()
def validate(
    file: Annotated[Path, typer.Argument(help="Policy file.")],
) -> None:
    """Check a policy file; exit with 1 and every fault if it is wrong."""
    loaded = load(file)
    _console.print(f"{file}: {len(loaded.policies.policies)} policies, no fault")


@policies_app.command()
def schema() -> None:
    """Print the JSON Schema of policy files, for editors."""
    sys.stdout.write(json.dumps(json_schema(), indent=2) + "\n")


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
    settings = _settings(target=target, store=store, policies=policies)

    async def ask() -> dict[str, Any]:
        headgate = Headgate(settings=settings)
        headgate.limiter.policies.replace(headgate.loaded.policies)
        front = Front(load_target(settings.target), headgate)
        try:
            return await explain(
                headgate.gate,
                front.routes,
                method=method,
                path=path,
                headers=headers,
                peer=address,
            )
        finally:
            await headgate.aclose()

    told = asyncio.run(ask())
    if as_json:
        sys.stdout.write(json.dumps(told, indent=2) + "\n")
    else:
        _show(told)


def _show(told: dict[str, Any]) -> None:
    who = told["identity"]
    name = who["principal"] or who["client_address"]
    tier = f", tier {who['tier']}" if who["tier"] else ""
    refused = f" (credential not accepted: {who['error']})" if who["error"] else ""
    console = Console(highlight=False)
    console.print(f"{told['method']} {told['path']}  →  {told['route']}")
    console.print(f"as {name}{tier}{refused}, subject {who['subject']}")
    table = Table("policy", "mode", "key", "limit", "remaining", "retry after", "store away")
    for policy in told["policies"]:
        standing = (policy["standing"] or [{"limits": [{}] * len(policy["limits"])}])[0]
        for limit, figures in zip(policy["limits"], standing["limits"], strict=True):
            wait = figures.get("retry_after_seconds")
            table.add_row(
                policy["name"],
                policy["mode"],
                ", ".join(policy["key"]),
                _limit(limit),
                str(figures.get("remaining", "?")),
                f"{wait:.1f} s" if wait else "",
                policy["on_store_error"],
            )
    console.print(table if told["policies"] else "no policy holds it: it is not limited")


def _limit(limit: dict[str, Any]) -> str:
    if "concurrency" in limit:
        return f"{limit['concurrency']} at a time"
    burst = f", burst {limit['burst']}" if limit["burst"] != limit["limit"] else ""
    return f"{limit['limit']} per {limit['seconds']:g} s{burst} ({limit['algorithm']})"


def main() -> None:
    """Run the command; an error that was foreseen is one message and exit status 1."""
    try:
        app()
    except HeadgateError as error:
        _console.print(str(error), style="red", markup=False)
        sys.exit(1)
