"""The committed dashboards and rules are the generated ones, and the chart delivers them."""

import json
import os
import subprocess
import sys

import pytest
import yaml

import generate
from dashboard import RUNBOOK
from support.boards import BOARDS, FILES
from support.helm import helm, needs_helm
from support.tool import ROOT


def test_committed_files_are_the_generated_ones() -> None:
    """`python dashboards/src/generate.py` changes no file, and there are no other ones."""
    committed = {
        str(path.relative_to(FILES)): path.read_text(encoding="utf-8")
        for path in (*FILES.glob("*.yaml"), *FILES.glob("dashboards/*"))
    }
    assert committed == generate.files(), "run: python dashboards/src/generate.py"


@pytest.mark.parametrize("seed", ["0", "1"])
def test_generation_is_deterministic(seed: str) -> None:
    """Another process with another hash seed generates the same bytes."""
    done = subprocess.run(
        [sys.executable, "-c", "import generate; print(*generate.files().values())"],
        cwd=ROOT / "dashboards" / "src",
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == " ".join(generate.files().values()) + "\n"


@needs_helm
def test_configmap_contains_the_committed_dashboards() -> None:
    """The chart delivers them unchanged but for spaces and the runbook's URL, in one ConfigMap."""
    chart = ROOT / "charts" / "fleetlimit"
    values = chart / "ci" / "observability-values.yaml"
    shown = ("--show-only", "templates/configmap-dashboards.yaml")
    rendered = helm("template", "fl", chart, "--values", values, *shown)
    delivered = yaml.safe_load(rendered)["data"]
    url = yaml.safe_load(values.read_text(encoding="utf-8"))["prometheusRule"]["runbookUrl"]
    for uid, board in BOARDS.items():
        expected = json.dumps(board).replace(RUNBOOK, url)
        assert json.loads(delivered.pop(f"{uid}.json")) == json.loads(expected)
    assert not delivered
    # `kubectl apply` copies a ConfigMap into an annotation; annotations are limited to 256 KiB.
    assert len(rendered) < 200_000
