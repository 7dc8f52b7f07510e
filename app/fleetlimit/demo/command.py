"""Command `fleetlimit demo`: checks the options and the extra `demo`, then starts the run."""

import importlib.util

from fleetlimit.demo.options import DemoOptions
from fleetlimit.errors import ConfigError


def require(module: str) -> None:
    """Check that a module of the extra `demo` is installed.

    Raises:
        ConfigError: It is not installed; the message has the command to run.
    """
    if importlib.util.find_spec(module) is None:
        raise ConfigError(f"the demonstration needs {module}: pip install 'fleetlimit[demo]'")


def main(options: DemoOptions) -> int:
    """Run the demonstration and return the exit status: 0 when the limit holds.

    Raises:
        FleetlimitError: A replica or the store did not start; the message has the next step.
    """
    if options.svg is not None and not options.svg.absolute().parent.is_dir():
        raise ConfigError(f"--svg {options.svg}: there is no such directory")
    for module in ("httpx", "rich"):
        require(module)
    from fleetlimit.demo.run import run  # noqa: PLC0415 - it imports modules of the extra

    return run(options)
