"""Command line of Fleetlimit.

A command imports its modules when it runs, because they belong to different extras. The exit status
is 0 after success, 1 after an error, which is printed as one message, and 2 if an option or an
argument is wrong. `migrate` also exits with 3 if a part of the code has no translation.
"""

import sys
from typing import Annotated

import typer

from fleetlimit.cli import serve
from fleetlimit.cli.keys import hash_command, keys_app
from fleetlimit.cli.migrate import migrate_command
from fleetlimit.cli.options import HELP_NAMES
from fleetlimit.cli.policies import policies_app
from fleetlimit.errors import FleetlimitError
from fleetlimit.version import __version__

app = typer.Typer(
    help="Rate limiting for FastAPI that holds across every replica.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings=HELP_NAMES,
)
app.command()(serve.serve)
app.command()(serve.demo)
app.add_typer(policies_app, name="policies")
app.add_typer(keys_app, name="keys")
app.command("hash")(hash_command)
app.command("migrate")(migrate_command)


def _print_version(is_wanted: bool) -> None:  # noqa: FBT001 - click calls it with the value
    if is_wanted:
        typer.echo(f"fleetlimit {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command. A `FleetlimitError` is printed as one message, with exit status 1."""
    try:
        app()
    except FleetlimitError as error:
        typer.secho(str(error), fg="red", err=True)
        sys.exit(1)
