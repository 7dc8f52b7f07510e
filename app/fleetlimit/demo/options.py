"""Options of the demonstration, and the check of its extra."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from fleetlimit.errors import ConfigError


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """Size and output of a run.

    Args:
        replicas: Number of `fleetlimit serve` processes.
        requests: Number of requests over all replicas.
        principals: Number of callers with an API key; a caller with forged keys is added.
        store: URL of a running store; None to start an embedded Valkey.
        json: Print the summary as one JSON object, and nothing else.
        svg: File to save a picture of the summary to.

    Raises:
        ConfigError: The directory of the picture does not exist.
    """

    replicas: int = 3
    requests: int = 2_000
    principals: int = 5
    store: str | None = None
    json: bool = False
    svg: Path | None = None

    def __post_init__(self) -> None:
        # Checked before the run, which takes seconds.
        if self.svg is not None and not self.svg.absolute().parent.is_dir():
            raise ConfigError(f"--svg {self.svg}: there is no such directory")


def require(*modules: str) -> None:
    """Check that modules of the extra `demo` are installed.

    Raises:
        ConfigError: A module is not installed; the message has the command to run.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise ConfigError(f"the demonstration needs {module}: pip install 'fleetlimit[demo]'")
