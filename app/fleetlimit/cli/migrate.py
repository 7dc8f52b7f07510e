"""Command `migrate`: the limits of slowapi and fastapi-limiter as those of Fleetlimit."""

from pathlib import Path
from typing import Annotated, Final

import typer

from fleetlimit.errors import ConfigError

INCOMPLETE: Final = 3
"""Exit status if something is left to write by hand."""


def migrate_command(
    path: Annotated[Path, typer.Argument(help="File or directory of an app.")],
    policies: Annotated[
        str, typer.Option(help="Path of the policy file, as the edited code names it.")
    ] = "policies.yaml",
    write_policies: Annotated[Path | None, typer.Option(help="New file for the policies.")] = None,
    write_patch: Annotated[
        Path | None, typer.Option(help="New file for the edits; git apply accepts it.")
    ] = None,
    algorithm: Annotated[
        str | None,
        typer.Option(help="Algorithm of the limits, such as fixed_window; token_bucket."),
    ] = None,
) -> None:
    """Print the policy file and the edits that replace slowapi or fastapi-limiter.

    The code is read, and never imported or run. Exit with 3 if something is left to write by hand.
    """
    from fleetlimit.core.quota import Algorithm, parse_algorithm
    from fleetlimit.migrate.translate import translate

    if algorithm is not None and parse_algorithm(algorithm) is Algorithm.CONCURRENCY:
        raise ConfigError("--algorithm concurrency has no rate: write fixed_window or token_bucket")
    for file in (write_policies, write_patch):
        if file is not None and file.exists():
            raise ConfigError(f"{file} exists: write the name of a new file")
    migration = translate(path, policies=policies, algorithm=algorithm or "")
    typer.echo(migration.report(policies), nl=False)
    if write_policies is not None and migration.policies:
        _write(write_policies, migration.policy_file())
    if write_patch is not None and migration.changed:
        _write(write_patch, migration.patch())
    if not migration.is_complete:
        raise typer.Exit(INCOMPLETE)


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {error.strerror}") from error
