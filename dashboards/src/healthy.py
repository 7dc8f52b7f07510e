"""Dashboard *Is the limiter healthy?*: check latency, store calls, pods, and Redis or Valkey."""

from collections.abc import Iterator

from grafana_foundation_sdk.models.dashboard import Panel

import queries
from dashboard import HEALTHY, Board, Row, store_variables
from fleetlimit.telemetry import names
from panels import Card, Query, graph_panel, heatmap_panel, small, stat_panel, timeline_panel
from promql import (
    POD,
    STORES,
    aggregate,
    bucket,
    increase,
    of_fleetlimit,
    quantile,
    rate,
    series,
    total,
)
from style import (
    BLUE,
    GREEN,
    MEMORY_USE,
    NO_CHECKS,
    NO_EXPORTER,
    NO_MEMORY_LIMIT,
    NO_STORE_CALLS,
    ORANGE,
    RED,
    STORE_SECONDS,
    ZERO_IS_BETTER,
    ZERO_IS_GOOD,
)


def board() -> Board:
    """Return the dashboard."""
    return Board(
        HEALTHY,
        "Is the limiter healthy?",
        "Check latency, store calls, and resources of the pods and of Redis or Valkey.",
        store_variables(),
        tuple(_overview()),
        (
            Row(200, "Checks", tuple(_checks())),
            Row(300, "Store calls", tuple(_store_calls())),
            Row(400, "Pods", tuple(_pods())),
            Row(500, "Redis or Valkey", (*_store_stats(), *_store_graphs())),
        ),
        advice_height=10,
    )


def _overview() -> Iterator[Panel]:
    yield stat_panel(
        small(
            101,
            "Check latency p99",
            "p99 of the time to decide a request. Orange from 25 ms: half of the default store "
            "timeout.",
        ),
        quantile(0.99, names.CHECK_DURATION.name),
        unit="s",
        steps=STORE_SECONDS,
        no_data=NO_CHECKS,
    )
    yield stat_panel(
        small(
            102,
            "Open breakers",
            "Pods with an open circuit breaker: the store failed, or one of its servers in a "
            "Cluster, and a probe has not succeeded yet.",
        ),
        queries.open_breakers(),
        steps=ZERO_IS_GOOD,
    )
    yield stat_panel(
        small(
            103,
            "Degraded checks",
            "Fraction of the checks that is decided without the shared limit, because the store "
            "is unavailable.",
        ),
        queries.degraded_share(),
        unit="percentunit",
        steps=ZERO_IS_GOOD,
    )
    yield stat_panel(
        small(
            104,
            "Store errors",
            "Failed store calls per second. An open circuit breaker sends no calls, so a long "
            "outage shows few errors.",
        ),
        queries.store_errors(),
        unit="ops",
        steps=ZERO_IS_BETTER,
    )
    yield stat_panel(
        small(
            105,
            "Event-loop lag p99",
            "p99 of the delay of a timer. A lag as long as the store timeout makes a fast store "
            "time out.",
        ),
        quantile(0.99, names.EVENT_LOOP_LAG.name),
        unit="s",
        steps=STORE_SECONDS,
    )
    yield stat_panel(
        small(
            106,
            "Store state lost",
            "How often the store lost its state in the time range. Every bucket is full after it.",
        ),
        aggregate("max", increase(names.STORE_STATE_LOST.name)),
        steps=ZERO_IS_GOOD,
        decimals=0,
    )


def _checks() -> Iterator[Panel]:
    duration = names.CHECK_DURATION.name
    yield graph_panel(
        Card(
            202,
            "Check latency by source",
            "p50 and p99 by source: `store`, `prefetch` (units that the pod acquired before), "
            "`cache` (the denial cache), `local` (a pod's share) or `none`.",
        ),
        Query(quantile(0.5, duration, names.SOURCE), "{{source}} p50"),
        Query(quantile(0.99, duration, names.SOURCE), "{{source}} p99", exemplars=True),
        unit="s",
        no_data=NO_CHECKS,
    )
    yield heatmap_panel(
        Card(201, "Check latency", "Checks per second by latency, over all pods. Dots are traces."),
        total(rate(bucket(duration)), "le"),
        unit="s",
    )
    yield graph_panel(
        Card(203, "Checks by source", "Checks per second by the source of the decision."),
        Query(total(rate(f"{duration}_count"), names.SOURCE), "{{source}}"),
        unit="reqps",
        stacked=True,
        colors={"local": ORANGE},
    )
    yield graph_panel(
        Card(
            204,
            "Denials from the cache",
            "Denials per second, and how many of them the denial cache answered without a store "
            "call.",
        ),
        Query(queries.denials(), "all denials"),
        Query(total(rate(names.DENIAL_CACHE_HITS.name)), "from the cache"),
        unit="reqps",
    )


def _store_calls() -> Iterator[Panel]:
    yield graph_panel(
        Card(
            301,
            "Store errors by type",
            "Failed store calls per second. `timeout` and `connection` are transient. "
            "`permission`, `read_only` and `out_of_memory` need a fix.",
        ),
        Query(queries.store_errors_by_type(), "{{error_type}}"),
        unit="ops",
    )
    yield timeline_panel(
        Card(
            302,
            "Circuit breaker",
            "State of each pod's circuit breaker; in a Cluster it is open while the one of any "
            "server is. If all are open, check the store. If one is open, check that pod and its "
            "network.",
        ),
        Query(queries.breaker(POD), "{{pod}}"),
        {0: ("closed", GREEN), 1: ("open", RED)},
    )
    yield graph_panel(
        Card(
            303,
            "Degraded checks by outcome",
            "Checks per second that are decided without the shared limit: by a pod's share of it "
            "(`local`), admitted (`fail_open`) or rejected (`fail_closed`).",
        ),
        Query(queries.decided_locally(), "local"),
        Query(queries.decided_by_error_mode(names.OUTCOME), "{{outcome}}"),
        unit="reqps",
        stacked=True,
        colors={"fail_open": ORANGE, "fail_closed": RED},
    )
    yield graph_panel(
        Card(
            304,
            "Store calls per pipeline",
            "Calls that are sent to the store in one pipeline. The number grows with the load, up "
            "to 64.",
        ),
        Query(queries.mean_batch_size(), "mean"),
        Query(quantile(0.99, names.STORE_BATCH_SIZE.name), "p99"),
        no_data=NO_STORE_CALLS,
    )
    yield graph_panel(
        Card(
            305,
            "Store state lost, server changed",
            "Pods that found the store without its state, so that every bucket is full, or that "
            "found another server, which may lack the last writes.",
            24,
            6,
        ),
        Query(queries.pods_with_a_change(names.STORE_STATE_LOST.name), "state lost"),
        Query(queries.pods_with_a_change(names.STORE_SERVER_CHANGES.name), "server changed"),
    )


def _pods() -> Iterator[Panel]:
    yield graph_panel(
        Card(
            401,
            "Event-loop lag p99 by pod",
            "p99 of the delay of a timer. Every other task of the pod is delayed as long.",
        ),
        Query(quantile(0.99, names.EVENT_LOOP_LAG.name, POD), "{{pod}}"),
        unit="s",
    )
    cpu, memory = (
        total(of_fleetlimit(each), POD)
        for each in (rate("process_cpu_seconds_total"), series("process_resident_memory_bytes"))
    )
    yield graph_panel(
        Card(402, "CPU by pod", "CPU cores in use. One process can use one core."),
        Query(cpu, "{{pod}}"),
    )
    yield graph_panel(
        Card(403, "Memory by pod", "Resident memory."), Query(memory, "{{pod}}"), unit="bytes"
    )
    yield graph_panel(
        Card(
            404,
            "Dropped spans, denials not logged",
            "Spans per second that were not exported, so that traces are missing, and denials per "
            "second that the log only counts, which is intended.",
        ),
        Query(total(rate(names.SPANS_DROPPED.name)), "spans dropped"),
        Query(total(rate(names.DENIALS_SUPPRESSED.name)), "denials not logged"),
        unit="cps",
    )


def _store_stats() -> Iterator[Panel]:
    yield stat_panel(
        small(501, "Store up", "Whether every exporter reaches its server.", 6),
        queries.store_reachable(),
        unit="none",
        steps=((None, RED), (1, GREEN)),
        texts={0: ("no", RED), 1: ("yes", GREEN)},
        no_data=NO_EXPORTER,
    )
    yield stat_panel(
        small(
            502,
            "Highest memory use",
            "Used fraction of `maxmemory` of the fullest server. A full server rejects writes.",
            6,
        ),
        queries.highest_memory_use(),
        unit="percentunit",
        steps=MEMORY_USE,
        no_data=NO_MEMORY_LIMIT,
    )
    yield stat_panel(
        small(
            503,
            "Keys evicted",
            "Keys evicted in the time range. An evicted bucket is full again. Set "
            "`maxmemory-policy noeviction`.",
            6,
        ),
        f"sum({increase('redis_evicted_keys_total', of=STORES)})",
        steps=ZERO_IS_GOOD,
        decimals=0,
        no_data=NO_EXPORTER,
    )
    yield stat_panel(
        small(504, "Connections", "Client connections, including those of other programs.", 6),
        f"sum({series('redis_connected_clients', of=STORES)})",
        no_data=NO_EXPORTER,
    )


def _store_graphs() -> Iterator[Panel]:
    yield graph_panel(
        Card(505, "Memory", "Used memory of each server. Dashed: `maxmemory`.", 8),
        Query(queries.memory_by_instance("used"), "{{instance}}"),
        Query(f"{queries.memory_by_instance('max')} > 0", "{{instance}} maxmemory"),
        unit="bytes",
        dashed="maxmemory",
        no_data=NO_EXPORTER,
    )
    for id_, title, description, metric in (
        (506, "Commands", "Commands per second.", "redis_commands_processed_total"),
        (507, "Evictions", "Evicted keys per second.", "redis_evicted_keys_total"),
    ):
        yield graph_panel(
            Card(id_, title, description, 8),
            Query(total(rate(metric, of=STORES), "instance"), "{{instance}}"),
            unit="ops",
            no_data=NO_EXPORTER,
        )
    yield graph_panel(
        Card(
            508,
            "Keys",
            "Keys of each server, over all databases. Fleetlimit stores one key per limit and "
            "caller until it expires.",
        ),
        Query(total(series("redis_db_keys", of=STORES), "instance"), "{{instance}}"),
        no_data=NO_EXPORTER,
    )
    yield timeline_panel(
        Card(
            509,
            "Role",
            "Role of each server. After a failover the new primary may lack the last writes.",
        ),
        Query(queries.primaries(), "{{instance}}"),
        {0: ("replica", BLUE), 1: ("primary", GREEN)},
        no_data=NO_EXPORTER,
    )
