"""Virtual environments of the contenders, rebuilt when their pins or sources change."""

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from harness.lineup import COMPILED, OWN, Contender

_PINS: Final = Path(__file__).resolve().parents[1] / "environments"
_ENVIRONMENTS: Final = _PINS.parent / ".environments"
_PROJECT: Final = _PINS.parents[1]


def python_of(contender: Contender) -> str:
    """Return the interpreter of a contender's environment; create the environment if needed."""
    if contender.environment == OWN:
        return sys.executable
    if contender.environment == COMPILED:
        return str(_compiled() / "bin" / "python")
    pins = _PINS / f"{contender.environment}.txt"
    folder = _environment(contender.environment, (pins, _PINS / "web.txt"), ("-r", str(pins)))
    return str(folder / "bin" / "python")


def _compiled() -> Path:
    patterns = (
        "pyproject.toml",
        "constraints.txt",
        "deploy/wheel/*.py",
        "app/**/*.py",
        "app/**/*.lua",
    )
    sources = sorted(each for pattern in patterns for each in _PROJECT.glob(pattern))
    requirements = ("-c", str(_PROJECT / "constraints.txt"), f"{_PROJECT}[demo,otel]")
    return _environment(COMPILED, sources, requirements, {"HATCH_BUILD_HOOK_ENABLE_CUSTOM": "true"})


def _environment(
    name: str,
    sources: Sequence[Path],
    requirements: Sequence[str],
    variables: dict[str, str] | None = None,
) -> Path:
    """Return the folder of an environment; create it if it is missing or out of date.

    Args:
        name: Name of the environment.
        sources: Files that it is built from. A change of one rebuilds it.
        requirements: Arguments of `pip install`.
        variables: Further environment variables of pip.
    """
    digest = hashlib.sha256(b"".join(each.read_bytes() for each in sources)).hexdigest()
    folder = _ENVIRONMENTS / name
    digest_file = folder / "sources.sha256"
    if digest_file.is_file() and digest_file.read_text("utf-8") == digest:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    command = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", *requirements]
    subprocess.run(  # noqa: S603 - our own pins
        [*command, "--disable-pip-version-check"],
        check=True,
        env={**os.environ, **(variables or {})},
    )
    digest_file.write_text(digest, "utf-8")
    return folder
