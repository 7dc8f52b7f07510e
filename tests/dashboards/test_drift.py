"""The committed boards and rules are the generated ones, in `dashboards/` and in the chart."""

import json
import os
import subprocess
import sys

import pytest

import generate
from support.boards import BOARDS, FOLDER


def test_nothing_was_changed_by_hand() -> None:
    """Each committed file is what `python dashboards/src/generate.py` writes, and no more."""
    written = generate.files()
    folders = {(generate.ROOT / path).parent for path in written}
    committed = {
        str(path.relative_to(generate.ROOT)): path.read_text(encoding="utf-8")
        for folder in folders
        for path in folder.iterdir()
        if path.suffix in {".json", ".yaml"}
    }
    assert committed == written, "run: python dashboards/src/generate.py"


@pytest.mark.parametrize("seed", ["0", "1"])
def test_generation_is_deterministic(seed: str) -> None:
    """Another process, with another order of sets, makes the same bytes."""
    done = subprocess.run(
        [sys.executable, "-c", "import generate; print(*generate.files().values())"],
        cwd=FOLDER / "src",
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == " ".join(generate.files().values()) + "\n"


def test_the_chart_has_the_same_boards() -> None:
    """The chart's boards are those of `dashboards/` but for spaces, and fit in one ConfigMap."""
    size = 0
    for uid, board in BOARDS.items():
        file = generate.ROOT / generate.CHARTED / "dashboards" / f"{uid}.json"
        assert json.loads(file.read_text(encoding="utf-8")) == board
        size += file.stat().st_size
    # `kubectl apply` keeps what it applied in an annotation; those have 256 KiB in all.
    assert size < 200_000
