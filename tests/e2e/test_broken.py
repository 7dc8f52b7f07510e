"""Experiment 12: a limiter that is broken on purpose fails an experiment.

`--broken KIND` runs all experiments that measure the limit with a broken limiter.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from support.e2e_broken import BROKEN
from support.e2e_many_pods import run_with_three_pods
from support.e2e_release import Release
from support.e2e_report import OvershootError, Report
from support.e2e_watch import Watch


@pytest.mark.experiment(number=12)
@pytest.mark.parametrize("kind", BROKEN)
def test_experiment_with_three_pods_fails_with_a_broken_limiter(
    another_release: Callable[..., Release],
    installed: dict[str, object],
    image: str,
    folder: Path,
    kind: str,
) -> None:
    """A store for each pod, doubled policies or a mutated script admit more than is promised."""
    release = another_release(f"broken-{kind}", BROKEN[kind])
    release.install(installed)
    # A report of its own: what a broken limiter admits is not in the figures of the suite.
    with (
        Watch(release, folder) as watch,
        pytest.raises(OvershootError, match="three pods at the same time"),
    ):
        run_with_three_pods(release, image, watch, Report(folder))
