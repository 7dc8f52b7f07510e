"""Tables of the documents, which are computed from the summary of the results."""

import math
from pathlib import Path

import pytest

import documents
from documents import Results

SUMMARY = """\
- 2026-01-02, `python run.py`: half, same
- 2026-01-03, `python scaling.py`: store

## half: half load

| | rounds | requests/s | server us/request | store busy | commands/request | p99 ms |
|---|---|---|---|---|---|---|
| bare | 5 | 6,000 (5,990-6,010) | 100 | 0 | 0 | 1 |
| fleetlimit (middleware) | 5 | 4,000 (3,990-4,010) | 150 (140-160) | 0.04 | 0.75 | 2.5 |

## store: the store

| | rounds | store us/check | bytes/check |
|---|---|---|---|
| 1 checks a call | 2 | 9 | 200 |
"""


@pytest.mark.parametrize("page", documents.PAGES, ids=lambda page: page.name)
def test_committed_tables_are_those_of_the_committed_results(page: Path) -> None:
    """`python benchmarks/documents.py` changes nothing: no number differs from the summary."""
    text = page.read_text("utf-8")
    results = Results(documents.SUMMARY.read_text("utf-8"))
    assert "<!-- benchmarks: " in text
    assert documents.document(text, results) == text


def test_results_have_medians_and_ranges() -> None:
    """A number is the median; a cell has the range in words; a missing figure is NaN and empty."""
    results = Results(SUMMARY)
    assert results.number("half", "bare", "requests/s") == 6_000
    assert results.cell("half", "bare", "requests/s") == "6,000 (5,990 to 6,010)"
    assert results.cell("half", "unknown", "requests/s") == ""
    assert math.isnan(results.number("half", "unknown", "requests/s"))
    assert results.runs["same"] == "2026-01-02, `python run.py`"


def test_ranges_of_differences_have_signs() -> None:
    """A minus sign is no hyphen between the lowest and the highest round."""
    head, separator = "| | rounds | above raw |", "|---|---|---|"
    row = "| floor | 3 | -2 (-30--1.5) |"
    results = Results(f"## lonely: own check\n\n{head}\n{separator}\n{row}")
    assert results.cell("lonely", "floor", "above raw") == "-2 (-30 to -1.5)"
    assert results.number("lonely", "floor", "above raw") == -2


def test_table_of_cost_shows_half_load_and_omits_what_was_not_measured() -> None:
    """CPU beyond the bare app at half load, and no row or column without figures."""
    lines = list(documents.cost(Results(SUMMARY)))
    assert lines[0].startswith("Medians of 5 rounds (2026-01-02, `python run.py`)")
    assert lines[2] == "| | half load | CPU a request | of it the limiter | p99 |"
    assert lines[4:] == [
        "| the app without a limiter | 6,000/s | 100 µs | | 1 ms |",
        "| **Fleetlimit, middleware** | 4,000/s | 150 µs | 50 µs | 2.5 ms |",
    ]


def test_pods_are_computed_from_the_cpu_at_half_load() -> None:
    """10,000 requests/s of 150 µs at 60 % of a core are 2.5 pods; of 10 µs, 0.17 store cores."""
    lines = list(documents.pods(Results(SUMMARY)))
    assert "| 10,000 | 2.5 | 1.7 | 0.17 | 2.0 MB/s |" in lines
    text = "\n".join(lines)
    assert "\nFor 10,000 requests/s: 10,000/s x 150 µs / 0.6 = 2.5 pods" in text
    assert "makes 0.75 store calls for each request" in text
    assert "A busy store takes 9 µs\nfor a call" in text
