"""Clusters of the tests that break theirs."""

from collections.abc import Iterator

import pytest

from support.cluster import Cluster, SpareClusters


@pytest.fixture(scope="module")
def spare_clusters() -> Iterator[SpareClusters]:
    """Return Clusters that form while other tests of the module run."""
    with SpareClusters() as found:
        yield found


@pytest.fixture
def own_cluster(spare_clusters: SpareClusters) -> Iterator[Cluster]:
    """Return a Cluster that the test may break."""
    with spare_clusters.take() as found:
        yield found
