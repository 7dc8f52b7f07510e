"""Makes the environments that contenders need, and again when what they are made of changes."""

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
_MADE: Final = _PINS.parent / ".environments"
_PROJECT: Final = _PINS.parents[1]


def python_of(contender: Contender) -> str:
    """Return the interpreter of a contender's environment, made if it is not there."""
    if contender.environment == OWN:
        return sys.executable
    if contender.environment == COMPILED:
        return str(_compiled() / "bin" / "python")
    pins = _PINS / f"{contender.environment}.txt"
    made = _made(contender.environment, (pins, _PINS / "web.txt"), ("-r", str(pins)))
    return str(made / "bin" / "python")


def _compiled() -> Path:
    files = ("pyproject.toml", "constraints.txt", "deploy/wheel/compiled.py")
    package = sorted(each for kind in ("py", "lua") for each in _PROJECT.glob(f"app/**/*.{kind}"))
    sources = [*(_PROJECT / name for name in files), *package]
    wanted = ("-c", str(_PROJECT / "constraints.txt"), f"{_PROJECT}[demo]")
    return _made(COMPILED, sources, wanted, {"HATCH_BUILD_HOOK_ENABLE_CUSTOM": "true"})


def _made(
    name: str, of: Sequence[Path], wanted: Sequence[str], variables: dict[str, str] | None = None
) -> Path:
    """Return an environment.

    Args:
        name: Its name.
        of: The files that it is made of: when they change it is made again.
        wanted: What pip installs.
        variables: Variables of pip's environment.
    """
    digest = hashlib.sha256(b"".join(each.read_bytes() for each in of)).hexdigest()
    folder = _MADE / name
    mark = folder / "made-of"
    if mark.is_file() and mark.read_text("utf-8") == digest:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    command = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", *wanted]
    subprocess.run(  # noqa: S603 - our own pins
        [*command, "--disable-pip-version-check"],
        check=True,
        env={**os.environ, **(variables or {})},
    )
    mark.write_text(digest, "utf-8")
    return folder
