"""Release with metrics, alerts and traces that loses a pod and then its store."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import yaml
from kr8s.objects import Pod

from fleetlimit.telemetry import names
from support import e2e_timeouts as timeouts
from support.e2e_cluster import images
from support.e2e_load import Answers, Load
from support.e2e_outage import ALLOW, DENY, LOCAL, Outage, load, promised, run_outage, until_used
from support.e2e_prometheus import FOLDER, Prometheus
from support.e2e_release import Release
from support.e2e_report import Report, Row
from support.e2e_setup import POLICIES, TIERS, image_values
from support.e2e_store import Store
from support.e2e_tally import until_offered
from support.e2e_watch import Watch
from support.eventually import eventually

NAMESPACE: Final = "observed"
PLAN: Final = "plan"
"""Policy in shadow mode; it matches the requests of `LOCAL`."""
UNREACHABLE, DEGRADED = "FleetlimitStoreUnreachable", "FleetlimitDegraded"
BEFORE, AFTER = 50, 80
"""Audit intervals to wait for before and after the faults. An interval takes a few seconds, and
each of a policy's five callers has one. After an outage many are compared at once."""
_SHADOW: Final = f"""\
  - name: {PLAN}
    match: {{methods: [GET], routes: ["/items/{{item_id}}"]}}
    mode: shadow
    tiers: {{{TIERS[0]}: [{{rate: 5/minute}}], {TIERS[1]}: [{{rate: 1000/minute}}]}}
"""


def values() -> tuple[Mapping[str, object], ...]:
    """Return values of the chart in addition to those of every release; later ones override."""
    exporter = {"exporter": {"image": image_values(images()["REDIS_EXPORTER_IMAGE"])}}
    shown: dict[str, Any] = yaml.safe_load((FOLDER / "fleetlimit.yaml").read_text())
    return (
        shown,
        {
            "policies": {"inline": POLICIES + _SHADOW},
            "valkey": exporter,
            # A terminating pod serves metrics for five more seconds: its last values are scraped.
            "serviceMonitor": {"interval": "1s"},
            "prometheusRule": {"info": True, "for": {DEGRADED: "15s"}},
        },
    )


@dataclass(frozen=True, slots=True)
class FaultRun:
    """Faults of the release and the observations during them.

    Args:
        answers: Results of the requests.
        watch: Observations of the pods.
        gone: Name of the deleted pod.
        outage: Outage of the store.
        row: Figures of the experiment.
    """

    answers: Answers
    watch: Watch
    gone: str
    outage: Outage
    row: Row

    @property
    def start_us(self) -> int:
        """Start of the load, in microseconds since the epoch."""
        return self.answers.start_us

    @property
    def end_us(self) -> int:
        """Time after the load when every pod has been scraped, in microseconds since the epoch."""
        return self.answers.end_us + round(timeouts.POLL * 1e6)


def run_with_faults(
    release: Release, prometheus: Prometheus, image: str, watch: Watch, report: Report
) -> FaultRun:
    """Delete a pod and kill the store under load, and wait until the alerts of the outage fire.

    Phases without a fault before and after make the faults visible on the dashboards.
    """
    with Load(release, image, NAMESPACE, load(NAMESPACE), 400) as loading:
        _until_audited(prometheus, BEFORE)
        gone = watch.ready()[0]
        until_offered(watch, loading)
        watch.begin("pod deleted")
        Pod.get(gone, namespace=release.namespace, api=release.cluster.api).delete()
        eventually(
            lambda: gone not in watch.ready() and len(watch.ready()) == 3,
            within=timeouts.POD,
            what="another pod takes its place",
        )
        until_used(watch)
        until_offered(watch, loading)
        fault = Store(release).killed()
        outage = run_outage(watch, loading, "store killed", fault, lambda: _until_fired(prometheus))
        _until_audited(prometheus, AFTER)
        until_offered(watch, loading)
        loading.stop()
        answers = loading.answers()
    promise = promised([outage], forgotten=True)
    # Before the watch ends: the tally of the pods' logs has to agree with that of the clients.
    what = "pod deleted and store killed, observed by Prometheus"
    row = report.record(what, answers, watch, promise=promise)
    return FaultRun(answers, watch, gone, outage, row)


def firing(prometheus: Prometheus) -> set[str]:
    """Return the firing alerts of the release."""
    found = prometheus.at(f'ALERTS{{namespace="{NAMESPACE}", alertstate="firing"}}')
    return {labels["alertname"] for labels, _ in found}


def _until_audited(prometheus: Prometheus, intervals: int) -> None:
    """Wait until the audit has compared this many more intervals of each policy."""
    labels = f'namespace="{NAMESPACE}", {names.POLICY}=~"{ALLOW}|{DENY}|{LOCAL}"'
    compared = f"min(sum by (policy) ({names.AUDIT_INTERVALS.name}{{{labels}}}))"
    before = prometheus.at(compared)[0][1]
    eventually(
        lambda: prometheus.at(compared)[0][1] >= before + intervals,
        within=timeouts.AUDITED + timeouts.POD,
        what=f"{intervals} intervals of each policy are compared",
    )


def _until_fired(prometheus: Prometheus) -> None:
    eventually(
        lambda: {UNREACHABLE, DEGRADED} <= firing(prometheus),
        within=timeouts.FIRES,
        what="the alerts of the outage fire",
    )
