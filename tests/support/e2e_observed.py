"""A release with all that shows what it does, and what it goes through while that looks on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import yaml
from kr8s.objects import Pod

from fleetlimit.telemetry import names
from support import e2e_timeouts as timeouts
from support.e2e_away import beyond
from support.e2e_backends import FOLDER
from support.e2e_cluster import images
from support.e2e_eventually import eventually
from support.e2e_load import Answers, Load
from support.e2e_outage import ALLOW, DENY, LOCAL, Outage, load, through, until_used
from support.e2e_prometheus import Prometheus
from support.e2e_release import Release
from support.e2e_report import Report, Row
from support.e2e_scene import POLICIES, TIERS
from support.e2e_store import Store
from support.e2e_watch import Watch

NAMESPACE: Final = "observed"
PLAN: Final = "plan"
"""The policy in shadow, which holds the requests of `LOCAL` as well."""
UNREACHABLE, DEGRADED = "FleetlimitStoreUnreachable", "FleetlimitDegraded"
BEFORE, AFTER = 50, 80
"""Windows of the audit: a few seconds long, one for each of a policy's five callers. When the store
is back, many are compared at once."""
_SHADOW: Final = f"""\
  - name: {PLAN}
    match: {{methods: [GET], routes: ["/items/{{item_id}}"]}}
    mode: shadow
    tiers: {{{TIERS[0]}: [{{rate: 20/minute}}], {TIERS[1]}: [{{rate: 1000/minute}}]}}
"""


def values() -> tuple[Mapping[str, object], ...]:
    """Return values of the chart beside those of every release, the later ones going before."""
    repository, _, tag = images()["REDIS_EXPORTER_IMAGE"].rpartition(":")
    exporter = {"exporter": {"image": {"repository": repository, "tag": tag}}}
    shown: dict[str, Any] = yaml.safe_load((FOLDER / "fleetlimit.yaml").read_text())
    return (
        shown,
        {
            "policies": {"inline": POLICIES + _SHADOW},
            "valkey": exporter,
            # A pod that is asked to go is there for five seconds more: its last figures are seen.
            "serviceMonitor": {"interval": "1s"},
            "prometheusRule": {"for": {DEGRADED: "15s"}},
        },
    )


@dataclass(frozen=True, slots=True)
class Story:
    """What the release went through, and what was seen of it.

    Args:
        answers: What became of the requests.
        watch: What was seen of the pods.
        gone: Name of the pod that went.
        outage: The time without the store.
        row: Its figures.
    """

    answers: Answers
    watch: Watch
    gone: str
    outage: Outage
    row: Row

    @property
    def start_us(self) -> int:
        """When it began, in microseconds since the epoch."""
        return self.answers.start_us

    @property
    def end_us(self) -> int:
        """When it was over, in microseconds since the epoch, and everything was scraped."""
        return self.answers.end_us + round(timeouts.POLL * 1e6)


def live(
    release: Release, prometheus: Prometheus, image: str, watch: Watch, report: Report
) -> Story:
    """Have a pod go and the store die under load, until the alerts of that have fired.

    Before and after there is a time in which nothing happens, to be looked at on the dashboards.
    """
    with Load(release, image, NAMESPACE, load(NAMESPACE), 400) as loading:
        _until_audited(prometheus, BEFORE)
        gone = watch.ready()[0]
        watch.mark("pod deleted")
        Pod.get(gone, namespace=release.namespace, api=release.cluster.api).delete()
        eventually(
            lambda: gone not in watch.ready() and len(watch.ready()) == 3,
            within=timeouts.POD,
            what="another pod takes its place",
        )
        until_used(watch)
        outage = through(
            watch, "store killed", Store(release).killed(), lambda: _until_fired(prometheus)
        )
        _until_audited(prometheus, AFTER)
        loading.stop()
        answers = loading.answers()
    above = beyond(answers, [outage], forgotten=True)
    # While the pods' logs are followed: they have to say the same as the clients.
    row = report.record(NAMESPACE, answers, watch, beyond=above)
    return Story(answers, watch, gone, outage, row)


def firing(prometheus: Prometheus) -> set[str]:
    """Return the alerts of the release that fire now."""
    found = prometheus.at(f'ALERTS{{namespace="{NAMESPACE}", alertstate="firing"}}')
    return {labels["alertname"] for labels, _ in found}


def _until_audited(prometheus: Prometheus, windows: int) -> None:
    """Wait until so many more windows of each policy were compared."""
    labels = f'namespace="{NAMESPACE}", {names.POLICY}=~"{ALLOW}|{DENY}|{LOCAL}"'
    compared = f"min(sum by (policy) ({names.AUDIT_WINDOWS.name}{{{labels}}}))"
    before = prometheus.at(compared)[0][1]
    eventually(
        lambda: prometheus.at(compared)[0][1] >= before + windows,
        within=timeouts.AUDITED + timeouts.POD,
        what=f"{windows} windows of each policy are compared",
    )


def _until_fired(prometheus: Prometheus) -> None:
    eventually(
        lambda: {UNREACHABLE, DEGRADED} <= firing(prometheus),
        within=timeouts.FIRES,
        what="the alerts of the outage fire",
    )
