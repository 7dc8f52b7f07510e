"""External programs that tests run."""

import subprocess
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]


def run(*command: str, timeout: float = 600, stdin: str | None = None) -> str:
    """Run a command at the root of the repository and return what it printed.

    Raises:
        AssertionError: The command failed; the message has its output.
    """
    completed = subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        cwd=ROOT,
    )
    if completed.returncode:
        output = (completed.stderr + completed.stdout)[-4000:]
        raise AssertionError(f"{' '.join(command)} ended with {completed.returncode}:\n{output}")
    return completed.stdout
