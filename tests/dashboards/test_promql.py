"""Results of the queries when pods start, stop and disagree, as promtool evaluates them."""

from pathlib import Path

import pytest

import queries
from fleetlimit.core.decision import Outcome
from fleetlimit.telemetry import names
from promql import POD, RELEASE, of_fleetlimit, quantile, total
from promql import series as select
from support import boards
from support.boards import filled
from support.promtool import check_expressions, check_result, needs_promtool

pytestmark = needs_promtool


def pod(name: str, release: str = "a") -> str:
    """Return the scrape labels of a pod."""
    return f'namespace="n", job="{release}", pod="{name}", instance="{name}:9090"'


def one(name: str, labels: str = "", of: str = "p1", release: str = "a") -> str:
    """Return a series of a pod."""
    return f"{name}{{{', '.join(filter(None, (pod(of, release), labels)))}}}"


BUILDS = {
    one("fleetlimit_build_info", of="p1"): "1x40",
    one("fleetlimit_build_info", of="p2"): "1x40",
}
"""Two scraped pods."""
UNCHANGED_STORE = {
    one("fleetlimit_store_state_lost_total"): "0x40",
    one("fleetlimit_store_server_changes_total"): "0x40",
}
"""A store that kept its state and its server."""


def test_every_query_is_promql(tmp_path: Path) -> None:
    """Prometheus can parse every query of a dashboard."""
    found = (*boards.queries(), *boards.moments())
    check_expressions(tmp_path, {str(each): filled(each.expression) for each in found})


def test_admitted_is_summed_over_pods(tmp_path: Path) -> None:
    """Admitted units are summed over pods. Only the auditing pod counts permitted units."""
    series = {
        one("fleetlimit_audit_admitted_units_total", 'policy="x"', "p1"): "0+15x40",
        one("fleetlimit_audit_admitted_units_total", 'policy="x"', "p2"): "0+30x40",
        one("fleetlimit_audit_permitted_units_total", 'policy="x"', "p2"): "0+45x40",
    }
    admitted, permitted = (
        queries.audited(metric.name, names.POLICY)
        for metric in (names.AUDIT_ADMITTED, names.AUDIT_PERMITTED)
    )
    check_result(tmp_path, series, filled(admitted), {'{policy="x"}': 3})
    check_result(tmp_path, series, filled(permitted), {'{policy="x"}': 3})
    by_pod = queries.audited(names.AUDIT_ADMITTED.name, POD)
    check_result(tmp_path, series, filled(by_pod), {'{pod="p1"}': 1, '{pod="p2"}': 2})


@pytest.mark.parametrize(
    ("values", "shares"),
    [(("0+15x40", "0+45x40"), (0.25, 0.75)), (("7x40", "7x40"), (0, 0))],
    ids=["traffic", "none"],
)
def test_shares_add_up(
    tmp_path: Path, values: tuple[str, str], shares: tuple[float, float]
) -> None:
    """The shares of the pods sum to 1, and are 0 without traffic."""
    allowed = 'policy="x", outcome="allowed"'
    series = {
        one("fleetlimit_decisions_total", allowed, f"p{n}"): value
        for n, value in enumerate(values, 1)
    }
    expected = {f'{{pod="p{n}"}}': share for n, share in enumerate(shares, 1)}
    check_result(tmp_path, series, filled(queries.admitted_share_by_pod()), expected)


def test_short_overshoot_is_visible(tmp_path: Path) -> None:
    """An overshoot of one scrape is in the maximum over the time range."""
    series = UNCHANGED_STORE | {one("fleetlimit_audit_overshoot", 'policy="x"'): "0x20 3 0x19"}
    check_result(tmp_path, series, filled(queries.worst_overshoot()), {"{}": 3})
    check_result(tmp_path, series, filled(queries.overshooting_releases()), {"{}": 1})


def test_overshoot_without_an_audit_has_no_value(tmp_path: Path) -> None:
    """Without an audit there is no value; with an audit and no overshoot there is 0."""
    for query in (queries.worst_overshoot(), queries.overshooting_releases()):
        unaudited = BUILDS | UNCHANGED_STORE
        check_result(tmp_path, unaudited, filled(query), {})
        audited = unaudited | {one("fleetlimit_audit_overshoot", 'policy="x"'): "0x40"}
        check_result(tmp_path, audited, filled(query), {"{}": 0})


@pytest.mark.parametrize("lost", ["fleetlimit_store_state_lost", "fleetlimit_store_server_changes"])
def test_overshoot_after_a_lost_state_is_apart(tmp_path: Path, lost: str) -> None:
    """The board shows requests admitted by lost state, and no other overshoot."""
    series = UNCHANGED_STORE | {
        one(f"{lost}_total"): "0x10 1x29",
        one("fleetlimit_audit_overshoot", 'policy="x"'): "0x12 17x27",
        one("fleetlimit_audit_overshoot", 'policy="x"', "q1", "b"): "0x12 3x27",
        one("fleetlimit_store_state_lost_total", of="q1", release="b"): "0x40",
        one("fleetlimit_store_server_changes_total", of="q1", release="b"): "0x40",
    }
    by_release = {
        queries.explained_overshoot(*RELEASE): {"a": 17, "b": 0},
        queries.unexplained_overshoot(*RELEASE): {"a": 0, "b": 3},
    }
    for query, expected in by_release.items():
        result = {f'{{namespace="n", job="{job}"}}': units for job, units in expected.items()}
        check_result(tmp_path, series, filled(query), result)
    check_result(tmp_path, series, filled(queries.worst_overshoot()), {"{}": 3})


def test_local_admissions_are_summed_over_pods(tmp_path: Path) -> None:
    """Requests that local fallback admitted within five minutes, over all pods."""
    name = "fleetlimit_local_admissions_total"
    series = {one(name, 'policy="x"', pod): "0x25 0+1x14" for pod in ("p1", "p2")}
    result = {'{policy="x"}': 28}
    check_result(tmp_path, series, filled(f"round({queries.local_admissions()})"), result)


@pytest.mark.parametrize(("second", "sets"), [("d1", 1), ("d2", 2)])
def test_policy_sets_are_compared_within_a_release(tmp_path: Path, second: str, sets: int) -> None:
    """Policy sets are counted per release; releases may differ from each other."""
    series = {
        one("fleetlimit_policy_info", 'digest="d1"', "p1"): "1x40",
        one("fleetlimit_policy_info", f'digest="{second}"', "p2"): "1x40",
        one("fleetlimit_policy_info", 'digest="d9"', "p3", "b"): "1x40",
    }
    check_result(tmp_path, series, filled(queries.policy_sets()), {"{}": sets})
    differing = BUILDS | series
    different = queries.releases_with_different_policies()
    check_result(tmp_path, differing, filled(different), {"{}": sets - 1})


def test_other_jobs_are_ignored(tmp_path: Path) -> None:
    """With all jobs selected, `up` and `process_*` of other programs are ignored."""
    series = BUILDS | {
        one("up", of="p1"): "1x40",
        one("up", of="p2"): "1x40",
        one("up", of="p3"): "0x40",
        one("up", of="n1", release="node-exporter"): "1x40",
        one("process_resident_memory_bytes", of="p1"): "5x40",
        one("process_resident_memory_bytes", of="n1", release="node-exporter"): "9x40",
    }
    check_result(tmp_path, series, filled(queries.serving_pods()), {"{}": 2})
    memory = total(of_fleetlimit(select("process_resident_memory_bytes")), POD)
    check_result(tmp_path, series, filled(memory), {'{pod="p1"}': 5})
    of_release = {'{namespace="n", job="a"}': 2}
    check_result(tmp_path, series, filled(queries.serving_pods_by_release()), of_release)


@pytest.mark.parametrize(
    ("counted", "missing"), [(("2x40", "2x40"), 0), (("1x40", "1x40"), 1), (("2x40", "0x40"), 2)]
)
def test_uncounted_pods(tmp_path: Path, counted: tuple[str, str], missing: int) -> None:
    """Pods without a shared store count only themselves, so the other pods are uncounted."""
    series = {
        one("fleetlimit_replicas", of=f"p{number}"): values for number, values in enumerate(counted)
    } | {one("fleetlimit_replicas", of="p9", release="b"): "0x39 1"}
    not_counted = queries.uncounted_pods()
    check_result(tmp_path, series, filled(not_counted), {"{}": missing})


def test_missing_counters_are_zero(tmp_path: Path) -> None:
    """Before the first error or denial the result is 0; without a scraped pod there is none."""
    expected = {
        queries.store_errors(): {"{}": 0.0},
        queries.store_errors_by_type(): {'{error_type="none"}': 0.0},
        queries.denials_by(names.ROUTE): {'{route="none"}': 0.0},
        queries.store_errors_by_release(): {'{namespace="n", job="a"}': 0.0},
        queries.denying_policies(): {"{}": 0.0},
    }
    for query, result in expected.items():
        check_result(tmp_path, BUILDS, filled(query), result)
        check_result(tmp_path, {}, filled(query), {})


def test_zero_disappears_with_the_first_error(tmp_path: Path) -> None:
    """With the first error the result has no series `none`."""
    series = BUILDS | {one("fleetlimit_store_errors_total", 'error_type="timeout"'): "0+15x40"}
    by_type = {'{error_type="timeout"}': 1}
    check_result(tmp_path, series, filled(queries.store_errors_by_type()), by_type)
    check_result(tmp_path, series, filled(queries.store_errors()), {"{}": 1})


def test_first_denial_is_an_increase(tmp_path: Path) -> None:
    """A series from 0 shows its first denial; routes without denials have no line and no row."""
    routes = {"GET /a": "0x20 1x19", "GET /b": "0x40"}
    series = BUILDS | {
        one(
            "fleetlimit_denials_total", f'policy="p", route="{route}", tier="t", outcome="denied"'
        ): values
        for route, values in routes.items()
    }
    row = {'{policy="p", route="GET /a", tier="t"}': 1}
    check_result(tmp_path, series, filled(f"ceil({queries.denial_table(Outcome.DENIED)})"), row)
    line = {'{route="GET /a"}': 0}
    check_result(tmp_path, series, filled(queries.denials_by(names.ROUTE)), line)


def test_shares_without_traffic_are_zero(tmp_path: Path) -> None:
    """Without checks, the denied share and the degraded share are 0, not NaN."""
    outcomes = ("allowed", "denied", "fail_open", "fail_closed")
    series = {one("fleetlimit_checks_total", f'outcome="{each}"'): "5x40" for each in outcomes} | {
        one("fleetlimit_check_duration_seconds_count", 'source="local"'): "5x40"
    }
    check_result(tmp_path, series, filled(queries.denied_share()), {"{}": 0})
    degraded = queries.degraded_share(*RELEASE)
    check_result(tmp_path, series, filled(degraded), {'{namespace="n", job="a"}': 0})


def test_degraded_share_counts_each_check_once(tmp_path: Path) -> None:
    """The degraded share is local, fail-open and fail-closed decisions over all checks."""
    series = {
        one("fleetlimit_checks_total", 'outcome="allowed"'): "0+60x40",
        one("fleetlimit_checks_total", 'outcome="fail_open"'): "0+15x40",
        one("fleetlimit_checks_total", 'outcome="fail_closed"'): "0+15x40",
        one("fleetlimit_check_duration_seconds_count", 'source="local"'): "0+15x40",
        one("fleetlimit_check_duration_seconds_count", 'source="store"'): "0+45x40",
    }
    degraded = queries.degraded_share()
    check_result(tmp_path, series, filled(degraded), {"{}": 0.5})


def test_quantile_without_observations_has_no_value(tmp_path: Path) -> None:
    """A source without checks has no latency series, and no calls have no mean batch size."""
    bucket = "fleetlimit_check_duration_seconds_bucket"
    series = {
        one(bucket, f'source="{source}", le="{bound}"', each): values
        for source, values in (("local", "3x40"), ("store", "0+15x40"))
        for bound in ("0.001", "+Inf")
        for each in ("p1", "p2")
    }
    by_source = quantile(0.5, names.CHECK_DURATION.name, names.SOURCE)
    check_result(tmp_path, series, filled(by_source), {'{source="store"}': 0.0005})
    sizes = {
        one("fleetlimit_store_batch_size_sum"): "0+60x40",
        one("fleetlimit_store_batch_size_count"): "0+15x40",
    }
    check_result(tmp_path, sizes, filled(queries.mean_batch_size()), {"{}": 4})
    idle = dict.fromkeys(sizes, "3x40")
    check_result(tmp_path, idle, filled(queries.mean_batch_size()), {})


def test_short_outage_is_visible(tmp_path: Path) -> None:
    """A breaker that was open for one scrape counts as open for a rate interval."""
    series = BUILDS | {
        one("fleetlimit_breaker_open", of="p1"): "0x38 1 0",
        one("fleetlimit_breaker_open", of="p2"): "0x40",
    }
    check_result(tmp_path, series, filled(queries.open_breakers()), {"{}": 1})
    outages = {'{namespace="n", job="a"}': 1}
    check_result(tmp_path, series, filled(queries.store_outages()), outages)
    check_result(tmp_path, series, filled(queries.releases_with_an_open_breaker()), {"{}": 1})


def test_reload_annotation_ignores_the_first_load(tmp_path: Path) -> None:
    """A reload is annotated; the first load of a pod and a constant counter are not."""
    counter = "fleetlimit_policy_reloads_total"
    series = {
        one(counter, 'result="success"', "p1"): "1x38 2x2",
        one(counter, 'result="failure"', "p1"): "0x40",
        one(counter, 'result="success"', "p2"): "_x37 1x3",
    }
    reloaded = {'{namespace="n", job="a", result="success"}': 1}
    check_result(tmp_path, series, filled(queries.policy_reloads()), reloaded)


def test_start_annotation_is_in_milliseconds(tmp_path: Path) -> None:
    """The start time of Fleetlimit's pods is in milliseconds, as Grafana expects it."""
    series = BUILDS | {
        one("process_start_time_seconds", of="p1"): "1700000000.5x40",
        one("process_start_time_seconds", of="n1", release="node-exporter"): "1x40",
    }
    started = {f"{{{pod('p1')}}}": 1700000000500}
    check_result(tmp_path, series, filled(queries.process_starts()), started)


def test_pods_with_a_rejected_file(tmp_path: Path) -> None:
    """Only pods that rejected the last policy file are counted."""
    series = {
        one("fleetlimit_policy_last_reload_successful", of="p1"): "1x40",
        one("fleetlimit_policy_last_reload_successful", of="p2"): "1x20 0x20",
    }
    rejected = queries.pods_with_a_rejected_file()
    check_result(tmp_path, series, filled(rejected), {"{}": 1})


def test_memory_use_ignores_unlimited_servers(tmp_path: Path) -> None:
    """A server without `maxmemory` has no memory use, and does not hide a server with one."""
    series = {
        'redis_memory_used_bytes{job="r", instance="s1"}': "50x40",
        'redis_memory_max_bytes{job="r", instance="s1"}': "0x40",
    }
    check_result(tmp_path, series, filled(queries.highest_memory_use()), {})
    limited = {
        'redis_memory_used_bytes{job="r", instance="s2"}': "50x40",
        'redis_memory_max_bytes{job="r", instance="s2"}': "200x40",
    }
    check_result(tmp_path, series | limited, filled(queries.highest_memory_use()), {"{}": 0.25})


def test_primary_is_one_and_replica_is_zero(tmp_path: Path) -> None:
    """The role of each server is a number: 1 for the primary, 0 for a replica."""
    series = {
        'redis_instance_info{job="r", instance="s1", role="master"}': "1x40",
        'redis_instance_info{job="r", instance="s2", role="slave"}': "1x40",
    }
    roles = {'{instance="s1"}': 1, '{instance="s2"}': 0}
    check_result(tmp_path, series, filled(queries.primaries()), roles)
