"""Commands `policies`: check and explain policy files."""

import asyncio
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from fleetlimit.cli.options import HELP_NAMES, FactoryOption, PoliciesOption, StoreOption
from fleetlimit.errors import ConfigError

policies_app = typer.Typer(
    help="Check and explain policy files.", no_args_is_help=True, context_settings=HELP_NAMES
)


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
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 after a warning, too.")
    ] = False,
    by_hand: Annotated[
        list[str] | None,
        typer.Option(help="Policy that only checks by hand name, such as caller.check(...)."),
    ] = None,
) -> None:
    """Check a policy file and the files that it names; exit with 1 and each error if invalid.

    With an app, also check which policies match no route, which routes have no limit, and which
    policies the code names that do not exist.
    """
    from fleetlimit.bootstrap.identity import IdentifierBuilder
    from fleetlimit.policy_file import load

    policy_file = load(file)
    # Reads the API keys and the JWKS: a wrong one prevents the start of a server.
    IdentifierBuilder().build(policy_file.identity)
    warnings: tuple[str, ...] = ()
    if target is not None:
        warnings = _check_app(file, target, factory=factory, by_hand=frozenset(by_hand or ()))
    if strict and warnings:
        raise ConfigError(
            f"{file}: {_count(len(warnings), 'warning')}, which --strict does not allow"
        )
    typer.echo(f"{file}: {len(policy_file.policy_set.policies)} policies, no error", err=True)


def _check_app(
    file: Path, target: str, *, factory: bool, by_hand: frozenset[str]
) -> tuple[str, ...]:
    """Print the warnings about an app's routes, and return them.

    Raises:
        ConfigError: The app cannot be imported, or there are errors; the message lists all of them.
    """
    from fleetlimit.bootstrap.app_check import check_app
    from fleetlimit.server.wrap import find_starlette, import_app

    if not target:
        raise ConfigError("--target is empty: write package.module:app")
    try:
        app = import_app(target, factory=factory)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"the import of {target} failed with {type(error).__name__}: {error}"
        ) from error
    starlette = find_starlette(app)
    if starlette is None:
        raise ConfigError(
            f"the routes of {target} cannot be read: it is no FastAPI or Starlette app"
        )
    checked = check_app(starlette, file, by_hand=by_hand)
    for warning in checked.warnings:
        typer.echo(f"{file}: warning: {warning}", err=True)
    if checked.errors:
        raise ConfigError("\n".join(f"{file}: {each}" for each in checked.errors))
    typer.echo(
        f"{target}: {_count(checked.routes, 'route')}, {checked.limited} with a limit", err=True
    )
    return checked.warnings


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


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
    from fleetlimit.server.wrap import WrappedApp, find_starlette, import_app
    from fleetlimit.web.app_limiter import find_own_limiter

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
            starlette = find_starlette(app)
            own = find_own_limiter(starlette) if starlette is not None else None
            if isinstance(own, Fleetlimit):
                fleetlimit.adopt_functions(own)
            wrapped = WrappedApp(app, fleetlimit)
            return await explain(fleetlimit.http_limiter, wrapped.match_route, request)
        finally:
            await fleetlimit.aclose()

    explanation = asyncio.run(run())
    typer.echo(json.dumps(explanation, indent=2) if as_json else render(explanation))
