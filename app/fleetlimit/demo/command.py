"""Starts the demonstration once what it needs is known to be there."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from fleetlimit.errors import ConfigError


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What to demonstrate.

    Args:
        replicas: Processes of the service.
        requests: Requests, over all replicas.
        principals: Callers with an API key, besides the one that forges its identity.
        store: URL of a store that is already there; None for an embedded one.
        json: Print the result as one JSON object, and nothing else.
        svg: Where to save a picture of the result.
    """

    replicas: int = 3
    requests: int = 2_000
    principals: int = 5
    store: str | None = None
    json: bool = False
    svg: Path | None = None


def require(module: str) -> None:
    """See that a module of the extra `demo` is installed.

    Raises:
        ConfigError: It is not; the message says what to install.
    """
    if importlib.util.find_spec(module) is None:
        raise ConfigError(f"the demonstration needs {module}: pip install 'fleetlimit[demo]'")


def main(options: DemoOptions) -> int:
    """Run the demonstration and return the exit status: 0 when the limit holds.

    Raises:
        FleetlimitError: Something did not start; the message says what to do.
    """
    if options.svg is not None and not options.svg.absolute().parent.is_dir():
        raise ConfigError(f"--svg {options.svg}: there is no such directory")
    require("httpx")
    from fleetlimit.demo.run import run  # noqa: PLC0415 - it imports httpx, of an extra

    return run(options)
