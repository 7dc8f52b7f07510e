"""How long the kind suite waits for anything, in seconds; the only place that says so."""

from typing import Final

CLUSTER: Final = 300
"""Until kind has made or deleted a cluster, or loaded an image."""
BUILD: Final = 900
"""Until an image is built or pulled."""
HELM: Final = 240
"""Until a release has all its pods ready."""
COMMAND: Final = 60
"""Until the API server has answered."""
POD: Final = 90
"""Until a pod starts, or is ready again after a fault."""
LOAD_ENDS: Final = 60
"""Until the load's pod has ended after its own time is over."""
POLICIES_FOLLOW: Final = 90
"""Until every pod serves a changed ConfigMap: the kubelet's period and its cache."""
TALLIES_AGREE: Final = 30
"""Until the logs have the summaries of sampled refusals, which are written after their window."""
SCRAPE: Final = 1
"""Until a pod has told its counters, while pods come and go."""
POLL: Final = 0.5
"""Between two looks at something that is waited for."""
LOST_POD: Final = 3.0
"""After a pod was killed, until no connection goes to it any more."""
RECOVERY: Final = 5.0
"""After the store is ready again, until it decides again."""
SLOWEST_REQUEST: Final = 1.0
"""The most that a request takes whatever happens to the store."""
