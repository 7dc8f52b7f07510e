"""External programs that tests run."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

import fleetlimit

ROOT: Final = Path(__file__).resolve().parents[2]
_PACKAGES: Final = Path(fleetlimit.__file__).parents[1]


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


def check_with_pyright(folder: Path) -> str:
    """Check the Python files of a folder with pyright in strict mode, and return what it printed.

    Skips the test where it is not installed: its package brings Node.js, some 300 MB.

    Raises:
        AssertionError: pyright found an error; the message has its output.
    """
    pytest.importorskip("basedpyright", reason="pip install basedpyright")
    config = {"typeCheckingMode": "strict", "pythonVersion": "3.11", "extraPaths": [str(_PACKAGES)]}
    (folder / "pyrightconfig.json").write_text(json.dumps(config), "utf-8")
    command = (sys.executable, "-m", "basedpyright", "--pythonpath", sys.executable)
    return run(*command, "--project", str(folder))
