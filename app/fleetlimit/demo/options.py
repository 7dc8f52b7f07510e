"""Options of the demonstration."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """Size and output of a run.

    Args:
        replicas: Number of `fleetlimit serve` processes.
        requests: Number of requests over all replicas.
        principals: Number of callers with an API key; a caller with forged keys is added.
        store: URL of a running store; None to start an embedded Valkey.
        json: Print the result as one JSON object, and nothing else.
        svg: File to save a picture of the result to.
    """

    replicas: int = 3
    requests: int = 2_000
    principals: int = 5
    store: str | None = None
    json: bool = False
    svg: Path | None = None
