"""Number of worker processes of the server that runs an app."""

import os
import re
import sys
from collections.abc import Mapping, Sequence

_OPTION = re.compile(r"(?<!\S)(?:-w ?|--workers[ =])(\d+)(?!\S)")


def worker_processes(
    arguments: Sequence[str] = sys.argv, variables: Mapping[str, str] = os.environ
) -> int:
    """Return the number that the command line or the environment sets, or 1.

    The worker processes of gunicorn and uvicorn have the command line of their parent.

    Args:
        arguments: Command line, in which gunicorn and uvicorn accept `--workers`.
        variables: Environment, in which both read `WEB_CONCURRENCY`.
    """
    command = " ".join([variables.get("GUNICORN_CMD_ARGS", ""), *arguments])
    options = _OPTION.findall(command)
    text = options[-1] if options else variables.get("WEB_CONCURRENCY", "")
    return int(text) if text.isdecimal() else 1
