"""Helm: the one on the PATH, and Helm 3 where the variable `HELM3` has its path."""

import os
import shutil
from pathlib import Path
from typing import Final

import pytest

from support.tool import run

HELM: Final = "helm"
HELM3: Final = os.environ.get("HELM3", "")

needs_helm = pytest.mark.skipif(shutil.which(HELM) is None, reason="helm is not on the PATH")
needs_helm3 = pytest.mark.skipif(not HELM3, reason="HELM3 is not set to the path of Helm 3")
with_each_helm = pytest.mark.parametrize(
    "binary",
    [
        pytest.param(HELM, id="helm", marks=needs_helm),
        *([pytest.param(HELM3, id="helm3")] if HELM3 else []),
    ],
)


def helm(*arguments: str | Path, binary: str = HELM) -> str:
    """Run Helm and return its output. A failure of Helm fails the test."""
    return run(binary, *map(str, arguments))


def has_plugin(name: str, binary: str = HELM) -> bool:
    """Return whether a plugin of Helm is installed."""
    return shutil.which(binary) is not None and name in helm("plugin", "list", binary=binary)
