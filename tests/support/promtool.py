"""Asks promtool, the tool of Prometheus, whether queries are right and what they return."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from support.tool import run

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="there is no promtool on the PATH"
)

Labels = str
"""As they are written in a query, such as `{pod="a"}`; `{}` for none."""


def promtool(*arguments: str | Path) -> str:
    """Run promtool and return what it says; a failure is the test's."""
    return run("promtool", *map(str, arguments))


def check_expressions(folder: Path, expressions: Mapping[str, str]) -> None:
    """Assert that each expression is one of Prometheus.

    Args:
        folder: Where to write the file that promtool reads.
        expressions: Each by what it is.
    """
    rules = [
        {"record": f"query:{number}", "expr": expression, "labels": {"of": what}}
        for number, (what, expression) in enumerate(expressions.items())
    ]
    file = folder / "rules.yaml"
    file.write_text(json.dumps({"groups": [{"name": "queries", "rules": rules}]}))
    promtool("check", "rules", file)


def check_result(
    folder: Path,
    series: Mapping[str, str],
    expression: str,
    result: Mapping[Labels, float],
    *,
    rules: str = "",
) -> None:
    """Assert that an expression has this result after ten minutes of these series.

    Args:
        folder: Where to write the file that promtool reads.
        series: Values every 15 s in promtool's notation, such as `0+5x40`, by name and labels.
        expression: What to ask.
        result: Value of each series that comes back; empty for none.
        rules: File of rules in the folder, which are evaluated meanwhile.
    """
    asked = {
        "expr": expression,
        "eval_time": "10m",
        "exp_samples": [{"labels": labels, "value": value} for labels, value in result.items()],
    }
    given = [{"series": name, "values": values} for name, values in series.items()]
    test = {"interval": "15s", "input_series": given, "promql_expr_test": [asked]}
    file = folder / "test.yaml"
    files = [rules] if rules else []
    tests = {"rule_files": files, "evaluation_interval": "15s", "tests": [test]}
    file.write_text(json.dumps(tests))
    promtool("test", "rules", file)
