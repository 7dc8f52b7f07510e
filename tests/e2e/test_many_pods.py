"""Experiment 1: several pods and several callers under each algorithm."""

from support.e2e_cluster import Cluster
from support.e2e_load import Load
from support.e2e_report import Report
from support.e2e_scene import streams
from support.e2e_watch import Watch


def test_many_pods(cluster: Cluster, image: str, watch: Watch, report: Report) -> None:
    """Three pods let in what one would, each of them lets in and refuses, three tallies agree."""
    with Load(cluster, image, "many-pods", streams("many-pods", per_second=4), 18) as load:
        answers = load.answers()
    row = report.record("many pods", answers, watch)
    assert not row.overshoot
    assert not row.server_errors + row.refused + row.broken
    # A limiter that refuses everything would not overshoot either.
    assert row.admitted >= 0.6 * row.permitted
    assert len(row.pods) == 3
    assert all(allowed and denied for allowed, denied in row.pods.values()), row.pods
