"""Subprocess for one contender: a harness module, run in the contender's own environment."""

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
    """Start a harness module for a contender, pinned to the server's core.

    Args:
        contender: Its module is the first argument of the command.
        module: Harness module to run. The last line of its output is one JSON object.
        arguments: Further arguments.
        variables: Further environment variables.
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


def read_result(contender: Contender, process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Wait for the process to end and return the JSON object that it printed.

    Raises:
        RuntimeError: The process failed.
    """
    output, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{contender.name} failed: {errors.decode()[-2_000:]}")
    # Log lines come before the result.
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result
