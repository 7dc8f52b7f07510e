"""Commands about callers: `keys new` makes an API key, and `hash` prints the hash of a caller."""

import json
from pathlib import Path
from typing import Annotated

import typer

from fleetlimit.cli.options import HELP_NAMES, PoliciesOption, StoreOption
from fleetlimit.errors import ConfigError

keys_app = typer.Typer(help="Make API keys.", no_args_is_help=True, context_settings=HELP_NAMES)


@keys_app.callback()
def _group() -> None:
    """Make API keys."""


@keys_app.command()
def new(
    principal: Annotated[str, typer.Argument(help="Name of the caller, such as alice.")],
    tier: Annotated[str | None, typer.Option(help="Tier of the caller.")] = None,
    append: Annotated[
        Path | None, typer.Option(help="Key file that gets the hash; created if it is missing.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Make an API key for a caller; print it once, and the line with its hash for the key file.

    The key is nowhere else: the key file has only its hash.
    """
    from fleetlimit.identity.key_file import append_entry, entry_line, new_key

    key, entry = new_key(principal, tier)
    if append is not None:
        append_entry(append, entry)
    if as_json:
        typer.echo(json.dumps({"key": key, **entry.model_dump(exclude_none=True)}))
        return
    typer.echo(key)
    typer.echo(entry_line(entry))
    if append is not None:
        typer.echo(f"{append} has the hash; give {principal} the first line", err=True)
    else:
        typer.echo(
            f"give {principal} the first line, and write the second one below `keys:` in the key "
            "file",
            err=True,
        )


def hash_command(
    principal: Annotated[
        str | None, typer.Argument(help="Name of the caller, such as alice.")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Address of a caller without a credential, in its place.")
    ] = None,
    store: StoreOption = None,
    policies: PoliciesOption = None,
) -> None:
    """Print the hash of a caller, which logs, traces and /top have in place of its name.

    The secret is that of the settings (FLEETLIMIT_KEY_SECRET). With a shared store it is compared
    with that of the replicas.
    """
    from fleetlimit.bootstrap.caller_hash import hash_caller
    from fleetlimit.bootstrap.settings import Settings

    if (principal is None) == (address is None):
        raise ConfigError("write the name of a caller, or --address and an address")
    hashed = hash_caller(
        Settings.load(store=store, policies=policies), principal=principal, address=address
    )
    typer.echo(hashed.text)
    for warning in hashed.warnings:
        typer.echo(f"warning: {warning}", err=True)
