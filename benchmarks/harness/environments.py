"""Makes the pinned environment of each peer once, and again when its pins change."""

import hashlib
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Final

from harness.lineup import OWN, Contender

_PINS: Final = Path(__file__).resolve().parents[1] / "environments"
_MADE: Final = _PINS.parent / ".environments"


def python_of(contender: Contender) -> str:
    """Return the interpreter of a contender's environment, made if it is not there."""
    if contender.environment == OWN:
        return sys.executable
    return str(_made(contender.environment) / "bin" / "python")


def _made(name: str) -> Path:
    pins = _PINS / f"{name}.txt"
    digest = hashlib.sha256(pins.read_bytes() + (_PINS / "web.txt").read_bytes()).hexdigest()
    folder = _MADE / name
    mark = folder / "made-of"
    if mark.is_file() and mark.read_text("utf-8") == digest:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    command = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "-r", str(pins)]
    subprocess.run([*command, "--disable-pip-version-check"], check=True)  # noqa: S603 - our own pins
    mark.write_text(digest, "utf-8")
    return folder
