"""Markdown summary of the results."""

from pathlib import Path

import summary
from harness.results import Scene


def test_summary_has_medians_ranges_and_origin() -> None:
    """The summary states machine, date and command, and leaves a missing figure empty."""
    scene = Scene("allow", "allow path")
    for rate in (100.0, 160.0, 120.0):
        scene.add("bare", {"requests/s": rate})
    scene.add("floor", {"p50 ms": 1.5})
    run = {
        "machine": {"cpu": "test CPU", "cores": 2, "python": "3.11", "packages": {"redis": "8"}},
        "scenes": {
            "allow": {
                "title": scene.title,
                "date": "2026-01-02",
                "command": "python run.py",
                "contenders": scene.summary(),
            }
        },
    }
    lines = list(summary.summarize([run]))
    assert "- CPU: test CPU, 2 cores" in lines
    assert "- Python 3.11; redis 8" in lines
    assert "- 2026-01-02, `python run.py`: allow" in lines
    assert lines[-4:] == [
        "| | rounds | requests/s | p50 ms |",
        "|---|---|---|---|",
        "| bare | 3 | 120 (100-160) |  |",
        "| floor | 1 |  | 1.5 |",
    ]


def test_committed_summary_has_at_most_350_lines() -> None:
    """The repository keeps a summary, not every round."""
    files = (Path(summary.__file__).parent / "results").iterdir()
    assert sum(len(file.read_text("utf-8").splitlines()) for file in files) <= 350
