"""Experiment 1: several pods and several callers under each algorithm."""

import pytest

from support.e2e_many_pods import run_with_three_pods
from support.e2e_release import Release
from support.e2e_report import Report
from support.e2e_watch import Watch


@pytest.mark.experiment(number=1)
@pytest.mark.measured
def test_three_pods_admit_as_much_as_one(
    release: Release, image: str, watch: Watch, report: Report
) -> None:
    """Three pods together admit as much as one, each pod decides, and three tallies agree."""
    run_with_three_pods(release, image, watch, report)
