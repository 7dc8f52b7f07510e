"""Experiment 1: several pods and several callers under each algorithm."""

import pytest

from support.e2e_load import Load
from support.e2e_release import Release
from support.e2e_report import Report
from support.e2e_setup import streams
from support.e2e_watch import Watch


@pytest.mark.experiment(number=1)
def test_three_pods_admit_as_much_as_one(
    release: Release, image: str, watch: Watch, report: Report
) -> None:
    """Three pods together admit as much as one, each pod decides, and three tallies agree."""
    with Load(release, image, "many-pods", streams("many-pods", per_second=4), 18) as load:
        answers = load.answers()
    row = report.record("many pods", answers, watch)
    row.expect_lossless()
    row.expect_pods(3)
