"""Writes the boards and the rules, for everybody into `dashboards/` and once more into the chart.

Run it without arguments: `python dashboards/src/generate.py`. Helm reads only files of its chart,
and keeps them in every release: there the boards are without spaces.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import boards
import rules

ROOT: Final = Path(__file__).resolve().parents[2]
OPEN: Final = "dashboards"
CHARTED: Final = "charts/fleetlimit/files"


def files() -> dict[str, str]:
    """Return the text of each file, by its path from the root."""
    return dict(_files())


def _files() -> Iterator[tuple[str, str]]:
    for name, text in boards.files().items():
        yield f"{OPEN}/{name}", text
        tight = json.dumps(json.loads(text), separators=(",", ":"), ensure_ascii=False)
        yield f"{CHARTED}/dashboards/{name}", f"{tight}\n"
    for folder in (OPEN, CHARTED):
        yield f"{folder}/rules.yaml", rules.text()


def main() -> None:
    """Write every file."""
    for path, text in files().items():
        file = ROOT / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
