"""Runs a module of the harness on a contender, in its own interpreter and on the server's core."""

import json
import os
import subprocess
from collections.abc import Sequence
from typing import Any

from harness.cores import SERVER, pin
from harness.environments import python_of
from harness.lineup import Contender
from harness.server import BENCHMARKS


def start(
    contender: Contender, module: str, arguments: Sequence[object], variables: dict[str, str]
) -> subprocess.Popen[bytes]:
    """Start it.

    Args:
        contender: Whose module is the first argument.
        module: What is run; the last line that it prints is one JSON object.
        arguments: Further arguments.
        variables: Further variables of its environment.
    """
    command = [python_of(contender), "-m", module, f"contenders.{contender.module}"]
    process = subprocess.Popen(  # noqa: S603 - our own command
        [*command, *map(str, arguments)],
        env={**os.environ, **variables, "PYTHONPATH": str(BENCHMARKS)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    pin(process.pid, SERVER)
    return process


def answer(contender: Contender, process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Wait for its end and return what it printed.

    Raises:
        RuntimeError: It failed.
    """
    said, complaint = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{contender.name} failed: {complaint.decode()[-2_000:]}")
    # What it logs comes before.
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found
