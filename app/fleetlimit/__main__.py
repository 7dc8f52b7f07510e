"""Entry point of the command `fleetlimit` and of `python -m fleetlimit`."""

import sys

from fleetlimit.bootstrap.gc_tuning import raised_gc_threshold


def main() -> None:
    """Run the command, or exit with the missing extra's install command."""
    # From here, because the imports make many objects and hardly any garbage.
    with raised_gc_threshold():
        try:
            from fleetlimit.cli import main as run_command  # noqa: PLC0415 - it imports typer, of an extra
        except ModuleNotFoundError as error:
            if error.name != "typer":
                raise
            extra = "demo" if sys.argv[1:2] == ["demo"] else "server"
            sys.exit(f"fleetlimit's command needs typer: pip install 'fleetlimit[{extra}]'")
        run_command()


if __name__ == "__main__":
    main()
