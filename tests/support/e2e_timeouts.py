"""How long the kind suite waits for anything, in seconds; the only place that says so."""

from typing import Final

CLUSTER: Final = 300
"""Until kind has made or deleted a cluster, or loaded an image."""
BUILD: Final = 900
"""Until an image is built or pulled."""
HELM: Final = 240
"""Until a release has all its pods ready."""
GIVEN_UP: Final = 15
"""Until an upgrade that cannot succeed is given up."""
COMMAND: Final = 60
"""Until the API server has answered."""
AUTOSCALED: Final = 200
"""Until the autoscaler has the number of pods that the load needs: it looks each 15 seconds."""
POD: Final = 90
"""Until a pod starts, or is ready again after a fault."""
LOAD_ENDS: Final = 60
"""Until the load's pod has ended after its own time is over."""
POLICIES_FOLLOW: Final = 90
"""Until every pod serves a changed ConfigMap: the kubelet's period and its cache."""
TALLIES_AGREE: Final = 30
"""Until the logs have the summaries of sampled refusals, which are written after their window."""
AUDITED: Final = 60
"""Until the audit has compared what replicas let in: its windows and their statements."""
SCRAPE: Final = 1
"""Until a pod has told its counters, while pods come and go."""
POLL: Final = 0.5
"""Between two looks at something that is waited for."""
LOOK: Final = 0.1
"""Between two looks at something that must not be missed."""
LOST_POD: Final = 3.0
"""After a pod was killed, until no connection goes to it any more."""
RECOVERY: Final = 5.0
"""After the store is ready again, until it decides again."""
FAILOVER: Final = 10.0
"""After the primary is lost, until Sentinel has another: what deploy/values/valkey-ha.yaml says."""
REPLICATION: Final = 1.0
"""The most that a replica on the same network is behind its primary."""
SLOWEST_REQUEST: Final = 1.0
"""The most that a request takes whatever happens to the store."""
WITHOUT_STORE: Final = 0.1
"""The most that a request takes above the time for which a pod waits for the store."""
REMEMBERED: Final = 1.0
"""After a pod has lost the store, until it has forgotten whom the store refused."""
PAUSE: Final = 5.0
"""For how long the store is told to stand still: shorter than its readiness probes put up with."""
DELAY: Final = 0.8
"""What is added to every packet to a slow store: above all that a pod waits for."""
BACKEND: Final = 120
"""Until Prometheus or Jaeger runs."""
SCRAPED: Final = 30
"""Until Prometheus has what a pod counts, and an alert that is due fires: a few seconds of each."""
FIRES: Final = 90
"""From the fault until its alert fires: the time for which it has to last, and the evaluations."""
RESOLVED: Final = 360
"""From the end of the fault until its alerts are resolved: they look back for five minutes."""
TRACED: Final = 30
"""Until a trace is with Jaeger: pods send their spans each five seconds."""
DROPPED: Final = 60
"""Until a pod has given up spans that nobody takes: the exporter tries for ten seconds."""
