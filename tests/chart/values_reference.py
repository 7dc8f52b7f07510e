"""Generator of the values table in the chart's README, from the comments of values.yaml.

`python tests/chart/values_reference.py` rewrites the table.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[2] / "charts" / "fleetlimit"
BEGIN, END = "<!-- values: begin -->\n", "<!-- values: end -->\n"
MARK = "# -- "
LONGEST_DEFAULT = 80


@dataclass(frozen=True, slots=True)
class Value:
    """Value of the chart.

    Args:
        path: Dotted path in values.yaml.
        default: Default as JSON.
        description: Text of the comment, empty without one.
    """

    path: str
    default: str
    description: str


def values(text: str) -> Iterator[Value]:
    """Yield the values of a values.yaml: nodes with a comment, and leaves.

    Args:
        text: Text of the file in block style. Comments stand directly above their node.
    """
    return _below("", yaml.compose(text, yaml.SafeLoader), text.splitlines())


def _below(above: str, parent: Any, lines: list[str]) -> Iterator[Value]:
    for key, node in parent.value:
        path = f"{above}.{key.value}".lstrip(".")
        description = _description(lines, key.start_mark.line)
        if isinstance(node, yaml.MappingNode) and node.value and not description:
            yield from _below(path, node, lines)
        else:
            default = json.dumps(yaml.safe_load(yaml.serialize(node)), ensure_ascii=False)
            yield Value(path, default, description)


def _description(lines: list[str], line: int) -> str:
    found: list[str] = []
    while line and lines[line - 1].lstrip().startswith("#"):
        line -= 1
        comment = lines[line].lstrip()
        if comment.startswith(MARK):
            return " ".join([comment.removeprefix(MARK), *reversed(found)])
        found.append(comment.removeprefix("#").strip())
    return ""


def table(text: str) -> str:
    """Return the values as a Markdown table."""
    rows = ["| value | default | meaning |", "|---|---|---|"]
    for value in values(text):
        short = len(value.default) <= LONGEST_DEFAULT
        cells = (
            f"`{value.path}`",
            f"`{value.default}`" if short else "see values.yaml",
            value.description,
        )
        escaped = (cell.replace("|", "\\|") for cell in cells)
        rows.append(f"| {' | '.join(escaped)} |")
    return "\n".join(rows) + "\n"


def with_table(readme: str, text: str) -> str:
    """Return the README with the table of these values between its markers."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table(text)}{END}{after}"


def main() -> None:
    """Rewrite the table."""
    readme = CHART / "README.md"
    readme.write_text(with_table(readme.read_text(), (CHART / "values.yaml").read_text()))


if __name__ == "__main__":
    main()
