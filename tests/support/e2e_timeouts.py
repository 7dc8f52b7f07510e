"""All timeouts and durations of the kind suite, in seconds."""

from typing import Final

CLUSTER: Final = 300
"""Creation or deletion of a kind cluster, or loading of an image."""
BUILD: Final = 900
"""Build or pull of an image."""
HELM: Final = 240
"""Readiness of all pods of a release."""
FAILED_UPGRADE: Final = 15
"""Failure of an upgrade that cannot succeed."""
COMMAND: Final = 60
"""Response of the API server."""
AUTOSCALED: Final = 200
"""Scaling to the number of pods that the load needs; the autoscaler runs every 15 seconds."""
UNSCHEDULED: Final = 20
"""Proof that pods are not scheduled or a drain does not end, which otherwise takes seconds."""
DRAINED: Final = 240
"""Drain of a node with some pods of each values file, evicted one after another in each release."""
POD: Final = 90
"""Start of a pod, or its readiness after a fault."""
LOAD_ENDS: Final = 60
"""End of the load's pod after its own duration."""
POLICIES_APPLIED: Final = 90
"""Delivery of a changed ConfigMap to every pod: the kubelet's period and its cache."""
OFFERED: Final = 120
"""Requests of a phase: twice what each caller may have, at the rate of the load."""
TALLIES_AGREE: Final = 30
"""Agreement of logs and clients: summaries of sampled denials are logged after their window."""
AUDITED: Final = 60
"""Comparison by the audit: its intervals and the usage reports of the replicas."""
SCRAPE: Final = 1
"""Scrape of a pod while pods start and terminate."""
POLL: Final = 0.5
"""Polling interval of a condition."""
DRAIN_POLL: Final = 0.1
"""Polling interval of a condition that holds only shortly."""
LOST_POD: Final = 3.0
"""End of connections to a killed pod."""
RECOVERY: Final = 15.0
"""Recovery of the pods after the store is ready again."""
FAILOVER: Final = 10.0
"""Promotion by Sentinel after the loss of the primary, as in deploy/values/valkey-ha.yaml."""
REPLICATION: Final = 1.0
"""Maximum replication lag on the same network."""
STUCK_REQUEST: Final = 4.0
"""Duration of a request that waits for a lost store or collector, shorter than every fault.

A request that obeys the store timeout takes a fraction of it on an idle cluster. How much longer it
takes on a busy one is a figure of the report, and no assertion."""
DENIAL_CACHED: Final = 1.0
"""Expiry of cached denials after the loss of the store."""
PAUSE: Final = 5.0
"""Pause of the store, shorter than its readiness probes tolerate."""
DELAY: Final = 0.8
"""Delay of every packet to a slow store, above all timeouts of a pod."""
BACKEND: Final = 120
"""Start of Prometheus or Jaeger."""
SCRAPED: Final = 30
"""Scrape by Prometheus and evaluation of a due alert, a few seconds each."""
FIRES: Final = 90
"""Firing of an alert after the fault: its `for` duration and the evaluations."""
RESOLVED: Final = 360
"""Resolution of an alert after the fault; its range is five minutes."""
TRACED: Final = 30
"""Arrival of a trace in Jaeger; pods export every five seconds."""
DROPPED: Final = 60
"""Dropping of spans that no collector accepts; the exporter retries for ten seconds."""
