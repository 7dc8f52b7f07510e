"""Checks and evaluates PromQL with promtool, which comes with Prometheus."""

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
"""Labels in PromQL notation, such as `{pod="a"}`; `{}` for none."""


def promtool(*arguments: str | Path) -> str:
    """Run promtool and return its output; a failure fails the test."""
    return run("promtool", *map(str, arguments))


def check_expressions(folder: Path, expressions: Mapping[str, str]) -> None:
    """Assert that Prometheus can parse each expression.

    Args:
        folder: Folder for promtool's input.
        expressions: PromQL by a name for the error message.
    """
    rules = [
        {"record": f"query:{number}", "expr": expression, "labels": {"of": name}}
        for number, (name, expression) in enumerate(expressions.items())
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
    """Assert the result of an expression after ten minutes of these series, to six decimals.

    Prometheus 2 and 3 differ in the last bit of a rate.

    Args:
        folder: Folder for promtool's input.
        series: Values every 15 s in promtool's notation, such as `0+5x40`, by name and labels.
        expression: PromQL.
        result: Value by labels of each series of the result; empty for no result.
        rules: File in the folder with rules that promtool evaluates as well.
    """
    evaluation = {
        "expr": f"round({expression}, 1e-6)",
        "eval_time": "10m",
        "exp_samples": [{"labels": labels, "value": value} for labels, value in result.items()],
    }
    inputs = [{"series": name, "values": values} for name, values in series.items()]
    test = {"interval": "15s", "input_series": inputs, "promql_expr_test": [evaluation]}
    file = folder / "test.yaml"
    files = [rules] if rules else []
    tests = {"rule_files": files, "evaluation_interval": "15s", "tests": [test]}
    file.write_text(json.dumps(tests))
    promtool("test", "rules", file)
