"""Reads what values.yaml says of each value, and keeps the table of it in the chart's README.

`python tests/chart/values_reference.py` writes the table anew.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[2] / "charts" / "fleetlimit"
BEGIN, END = "<!-- values: begin -->\n", "<!-- values: end -->\n"
SAID = "# -- "
LONGEST_DEFAULT = 80


@dataclass(frozen=True, slots=True)
class Value:
    """A value: its path, its default as JSON, and what is said of it; empty for nothing."""

    path: str
    default: str
    said: str


def values(text: str) -> Iterator[Value]:
    """Yield the values of a values.yaml: down to what has a comment, or nothing inside it.

    Args:
        text: The file, block style, a comment directly above what it is about.
    """
    return _below("", yaml.compose(text, yaml.SafeLoader), text.splitlines())


def _below(above: str, parent: Any, lines: list[str]) -> Iterator[Value]:
    for key, node in parent.value:
        path = f"{above}.{key.value}".lstrip(".")
        said = _said(lines, key.start_mark.line)
        if isinstance(node, yaml.MappingNode) and node.value and not said:
            yield from _below(path, node, lines)
        else:
            default = json.dumps(yaml.safe_load(yaml.serialize(node)), ensure_ascii=False)
            yield Value(path, default, said)


def _said(lines: list[str], line: int) -> str:
    found: list[str] = []
    while line and lines[line - 1].lstrip().startswith("#"):
        line -= 1
        comment = lines[line].lstrip()
        if comment.startswith(SAID):
            return " ".join([comment.removeprefix(SAID), *reversed(found)])
        found.append(comment.removeprefix("#").strip())
    return ""


def table(text: str) -> str:
    """Return the values as a table of Markdown."""
    rows = ["| value | default | what |", "|---|---|---|"]
    for value in values(text):
        short = len(value.default) <= LONGEST_DEFAULT
        cells = (
            f"`{value.path}`",
            f"`{value.default}`" if short else "see values.yaml",
            value.said,
        )
        escaped = (cell.replace("|", "\\|") for cell in cells)
        rows.append(f"| {' | '.join(escaped)} |")
    return "\n".join(rows) + "\n"


def with_table(readme: str, text: str) -> str:
    """Return the README with the table of these values between its marks."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table(text)}{END}{after}"


def main() -> None:
    """Write the table anew."""
    readme = CHART / "README.md"
    readme.write_text(with_table(readme.read_text(), (CHART / "values.yaml").read_text()))


if __name__ == "__main__":
    main()
