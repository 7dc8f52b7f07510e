"""Load on three pods: the experiment that the broken limiters run, too."""

from support.e2e_load import Load
from support.e2e_release import Release
from support.e2e_report import Report
from support.e2e_setup import streams
from support.e2e_watch import Watch


def run_with_three_pods(release: Release, image: str, watch: Watch, report: Report) -> None:
    """Send requests to three pods, and compare what they admit with one limit.

    Raises:
        AssertionError: A figure is wrong; the report has the experiment nevertheless.
    """
    with Load(release, image, "many-pods", streams("many-pods", per_second=4), 18) as load:
        answers = load.answers()
    row = report.record("three pods at the same time", answers, watch)
    row.expect_lossless()
    row.expect_pods(3)
