"""Prometheus understands every query, and answers it rightly when pods come, go and differ."""

from pathlib import Path

import pytest

import denial_queries
import limit_queries
import limiter_queries
import moment_queries
import release_queries
import store_queries
from promql import RELEASE
from support.boards import filled, moments, queries
from support.promtool import check_expressions, check_result, needs_promtool

pytestmark = needs_promtool


def pod(name: str, release: str = "a") -> str:
    """Return the labels of the scrape of a pod."""
    return f'namespace="n", job="{release}", pod="{name}", instance="{name}:9090"'


def one(name: str, labels: str = "", of: str = "p1", release: str = "a") -> str:
    """Return the name of a pod's series."""
    return f"{name}{{{', '.join(filter(None, (pod(of, release), labels)))}}}"


BUILDS = {
    one("fleetlimit_build_info", of="p1"): "1x40",
    one("fleetlimit_build_info", of="p2"): "1x40",
}
"""Two pods that are scraped."""


def test_every_query_is_promql(tmp_path: Path) -> None:
    """Prometheus parses every query, with the variables filled in."""
    asked = {str(each): filled(each.expression) for each in (*queries(), *moments())}
    check_expressions(tmp_path, asked)


def test_admitted_is_summed_over_pods(tmp_path: Path) -> None:
    """A policy's admitted units are those of all pods; what one pod counts as permitted is all."""
    series = {
        one("fleetlimit_audit_admitted_units_total", 'policy="x"', "p1"): "0+15x40",
        one("fleetlimit_audit_admitted_units_total", 'policy="x"', "p2"): "0+30x40",
        one("fleetlimit_audit_permitted_units_total", 'policy="x"', "p2"): "0+45x40",
    }
    admitted, permitted = (
        limit_queries.admitted_units_by_policy(),
        limit_queries.permitted_units_by_policy(),
    )
    check_result(tmp_path, series, filled(admitted), {'{policy="x"}': 3})
    check_result(tmp_path, series, filled(permitted), {'{policy="x"}': 3})
    by_pod = limit_queries.admitted_units_by_pod()
    check_result(tmp_path, series, filled(by_pod), {'{pod="p1"}': 1, '{pod="p2"}': 2})


@pytest.mark.parametrize(
    ("values", "shares"),
    [(("0+15x40", "0+45x40"), (0.25, 0.75)), (("7x40", "7x40"), (0, 0))],
    ids=["traffic", "none"],
)
def test_shares_add_up(
    tmp_path: Path, values: tuple[str, str], shares: tuple[float, float]
) -> None:
    """The pods' shares add up to 1, and are 0 without traffic."""
    allowed = 'policy="x", outcome="allowed"'
    series = {
        one("fleetlimit_decisions_total", allowed, f"p{n}"): value
        for n, value in enumerate(values, 1)
    }
    expected = {f'{{pod="p{n}"}}': share for n, share in enumerate(shares, 1)}
    check_result(tmp_path, series, filled(limit_queries.admitted_share_by_pod()), expected)


def test_overshoot_between_two_points_is_seen(tmp_path: Path) -> None:
    """An overshoot that is gone again is the worst of the time looked at."""
    series = {one("fleetlimit_audit_overshoot", 'policy="x"'): "0x20 3 0x19"}
    check_result(tmp_path, series, filled(limit_queries.worst_overshoot()), {"{}": 3})
    check_result(tmp_path, series, filled(release_queries.overshooting()), {"{}": 1})


def test_no_overshoot_is_no_zero_where_nothing_is_audited(tmp_path: Path) -> None:
    """Without an audit there is no figure, and with one there is 0."""
    for query in (limit_queries.worst_overshoot(), release_queries.overshooting()):
        check_result(tmp_path, BUILDS, filled(query), {})
        audited = BUILDS | {one("fleetlimit_audit_overshoot", 'policy="x"'): "0x40"}
        check_result(tmp_path, audited, filled(query), {"{}": 0})


@pytest.mark.parametrize(("second", "sets"), [("d1", 1), ("d2", 2)])
def test_policy_sets_are_compared_within_a_release(tmp_path: Path, second: str, sets: int) -> None:
    """Two pods of a release with different policies are seen; two releases may differ."""
    series = {
        one("fleetlimit_policy_info", 'digest="d1"', "p1"): "1x40",
        one("fleetlimit_policy_info", f'digest="{second}"', "p2"): "1x40",
        one("fleetlimit_policy_info", 'digest="d9"', "p3", "b"): "1x40",
    }
    check_result(tmp_path, series, filled(limit_queries.policy_sets()), {"{}": sets})
    differing = BUILDS | series
    different = release_queries.with_different_policies()
    check_result(tmp_path, differing, filled(different), {"{}": sets - 1})


def test_all_jobs_means_all_of_fleetlimit(tmp_path: Path) -> None:
    """With all jobs picked, other programs are not counted as pods, and a pod that is down is."""
    series = BUILDS | {
        one("up", of="p1"): "1x40",
        one("up", of="p2"): "1x40",
        one("up", of="p3"): "0x40",
        one("up", of="n1", release="node-exporter"): "1x40",
        one("process_resident_memory_bytes", of="p1"): "5x40",
        one("process_resident_memory_bytes", of="n1", release="node-exporter"): "9x40",
    }
    check_result(tmp_path, series, filled(limit_queries.serving_pods()), {"{}": 2})
    check_result(tmp_path, series, filled(limiter_queries.memory_by_pod()), {'{pod="p1"}': 5})
    of_release = {'{namespace="n", job="a"}': 2}
    check_result(tmp_path, series, filled(release_queries.pods()), of_release)


@pytest.mark.parametrize(
    ("counted", "missing"), [(("2x40", "2x40"), 0), (("1x40", "1x40"), 1), (("2x40", "0x40"), 2)]
)
def test_replicas_that_are_not_counted_are_seen(
    tmp_path: Path, counted: tuple[str, str], missing: int
) -> None:
    """Pods that count themselves alone, as without a shared store, are told from a fleet."""
    series = {
        one("fleetlimit_replicas", of=f"p{number}"): values for number, values in enumerate(counted)
    } | {one("fleetlimit_replicas", of="p9", release="b"): "0x39 1"}
    not_counted = limit_queries.replicas_not_counted()
    check_result(tmp_path, series, filled(not_counted), {"{}": missing})


def test_counters_that_are_not_born_are_zero(tmp_path: Path) -> None:
    """Before the first error or denial there is a 0; without a scraped pod there is nothing."""
    wanted = {
        limiter_queries.store_errors(): {"{}": 0.0},
        limiter_queries.store_errors_by_type(): {'{error_type="none"}': 0.0},
        denial_queries.denials_by_route(): {'{route="none"}': 0.0},
        release_queries.store_errors(): {'{namespace="n", job="a"}': 0.0},
        denial_queries.denying_policies(): {"{}": 0.0},
    }
    for query, result in wanted.items():
        check_result(tmp_path, BUILDS, filled(query), result)
        check_result(tmp_path, {}, filled(query), {})


def test_zero_gives_way_to_what_is_counted(tmp_path: Path) -> None:
    """With the first error the 0 is gone, and no series is left that stands for none."""
    series = BUILDS | {one("fleetlimit_store_errors_total", 'error_type="timeout"'): "0+15x40"}
    by_type = {'{error_type="timeout"}': 1}
    check_result(tmp_path, series, filled(limiter_queries.store_errors_by_type()), by_type)
    check_result(tmp_path, series, filled(limiter_queries.store_errors()), {"{}": 1})


def test_a_share_of_nothing_is_zero(tmp_path: Path) -> None:
    """Without requests nothing is denied, and nothing decided without the store."""
    outcomes = ("allowed", "denied", "fail_open", "fail_closed")
    series = {one("fleetlimit_checks_total", f'outcome="{each}"'): "5x40" for each in outcomes} | {
        one("fleetlimit_check_duration_seconds_count", 'source="local"'): "5x40"
    }
    check_result(tmp_path, series, filled(denial_queries.denied_share()), {"{}": 0})
    without = limiter_queries.share_without_the_store(*RELEASE)
    check_result(tmp_path, series, filled(without), {'{namespace="n", job="a"}': 0})


def test_checks_without_the_store_are_counted_once(tmp_path: Path) -> None:
    """Local decisions and those by rule are different checks, and make up the share together."""
    series = {
        one("fleetlimit_checks_total", 'outcome="allowed"'): "0+60x40",
        one("fleetlimit_checks_total", 'outcome="fail_open"'): "0+15x40",
        one("fleetlimit_checks_total", 'outcome="fail_closed"'): "0+15x40",
        one("fleetlimit_check_duration_seconds_count", 'source="local"'): "0+15x40",
        one("fleetlimit_check_duration_seconds_count", 'source="store"'): "0+45x40",
    }
    without = limiter_queries.share_without_the_store()
    check_result(tmp_path, series, filled(without), {"{}": 0.5})


def test_a_quantile_of_nothing_is_not_shown(tmp_path: Path) -> None:
    """A source without checks has no latency, and its series is left out; others have theirs."""
    bucket = "fleetlimit_check_duration_seconds_bucket"
    series = {
        one(bucket, f'source="{source}", le="{bound}"', each): values
        for source, values in (("local", "3x40"), ("store", "0+15x40"))
        for bound in ("0.001", "+Inf")
        for each in ("p1", "p2")
    }
    by_source = limiter_queries.check_duration(0.5, "source")
    check_result(tmp_path, series, filled(by_source), {'{source="store"}': 0.0005})
    sizes = {
        one("fleetlimit_store_batch_size_sum"): "0+60x40",
        one("fleetlimit_store_batch_size_count"): "0+15x40",
    }
    check_result(tmp_path, sizes, filled(limiter_queries.average_batch_size()), {"{}": 4})
    idle = dict.fromkeys(sizes, "3x40")
    check_result(tmp_path, idle, filled(limiter_queries.average_batch_size()), {})


def test_a_short_outage_is_seen(tmp_path: Path) -> None:
    """A breaker that was open for one scrape is, for as long as a point stands for it."""
    series = BUILDS | {
        one("fleetlimit_breaker_open", of="p1"): "0x38 1 0",
        one("fleetlimit_breaker_open", of="p2"): "0x40",
    }
    check_result(tmp_path, series, filled(limiter_queries.pods_without_the_store()), {"{}": 1})
    away = {'{namespace="n", job="a"}': 1}
    check_result(tmp_path, series, filled(moment_queries.store_away()), away)
    check_result(tmp_path, series, filled(release_queries.without_the_store()), {"{}": 1})


def test_only_changes_are_marked(tmp_path: Path) -> None:
    """A reload is a moment; the first set of a pod, and a counter that stands still, are none."""
    counter = "fleetlimit_policy_reloads_total"
    series = {
        one(counter, 'result="success"', "p1"): "1x38 2x2",
        one(counter, 'result="failure"', "p1"): "0x40",
        one(counter, 'result="success"', "p2"): "_x37 1x3",
    }
    reloaded = {'{namespace="n", job="a", result="success"}': 1}
    check_result(tmp_path, series, filled(moment_queries.policies_reloaded()), reloaded)


def test_a_start_is_a_time_in_milliseconds(tmp_path: Path) -> None:
    """When a pod started is marked by its own clock, and only of Fleetlimit's pods."""
    series = BUILDS | {
        one("process_start_time_seconds", of="p1"): "1700000000.5x40",
        one("process_start_time_seconds", of="n1", release="node-exporter"): "1x40",
    }
    started = {f"{{{pod('p1')}}}": 1700000000500}
    check_result(tmp_path, series, filled(moment_queries.process_starts()), started)


def test_a_pod_with_a_rejected_file_is_counted(tmp_path: Path) -> None:
    """Pods that took the last file count nothing, and those that rejected it one each."""
    series = {
        one("fleetlimit_policy_last_reload_successful", of="p1"): "1x40",
        one("fleetlimit_policy_last_reload_successful", of="p2"): "1x20 0x20",
    }
    rejected = limit_queries.pods_with_a_rejected_file()
    check_result(tmp_path, series, filled(rejected), {"{}": 1})


def test_a_store_without_a_limit_is_not_full(tmp_path: Path) -> None:
    """A store that may use all memory has no used part, and does not hide one that has a limit."""
    series = {
        'redis_memory_used_bytes{job="r", instance="s1"}': "50x40",
        'redis_memory_max_bytes{job="r", instance="s1"}': "0x40",
    }
    check_result(tmp_path, series, filled(store_queries.fullest()), {})
    limited = {
        'redis_memory_used_bytes{job="r", instance="s2"}': "50x40",
        'redis_memory_max_bytes{job="r", instance="s2"}': "200x40",
    }
    check_result(tmp_path, series | limited, filled(store_queries.fullest()), {"{}": 0.25})


def test_the_primary_is_told_from_replicas(tmp_path: Path) -> None:
    """The role of each store is a number: 1 for the primary."""
    series = {
        'redis_instance_info{job="r", instance="s1", role="master"}': "1x40",
        'redis_instance_info{job="r", instance="s2", role="slave"}': "1x40",
    }
    roles = {'{instance="s1"}': 1, '{instance="s2"}': 0}
    check_result(tmp_path, series, filled(store_queries.primaries()), roles)
