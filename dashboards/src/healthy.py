"""The board about the limiter itself: its checks, its calls to the store, its pods, the store."""

import denial_queries
import limiter_queries
import links
import pods_row
import store_row
import variables
from cards import Card, Line, small
from fleetlimit.telemetry import names
from frame import Board, Row
from meaning import (
    GREEN,
    NO_CHECKS,
    NO_STORE_CALLS,
    NONE_IS_BETTER,
    NONE_IS_GOOD,
    ORANGE,
    RED,
    STORE_TIME,
)
from panels import advice, figure, heat, lines, states

_BREAKER = {0: ("asks the store", GREEN), 1: ("does not ask the store", RED)}


def board() -> Board:
    """Return the board."""
    return Board(
        links.HEALTHY,
        "Is the limiter healthy?",
        "How long checks take, what the store answers, and what pods and store use.",
        (*variables.release(), *variables.store(), variables.runbook()),
        (_glance(), _latency(), _store_calls(), pods_row.row(), store_row.row()),
    )


def _glance() -> Row:
    return Row(
        100,
        "At a glance",
        (
            figure(
                small(
                    101,
                    "Check latency, 99 of 100",
                    "99 of 100 checks take at most so long. From half of the store's usual "
                    "timeout of 50 ms on it is orange.",
                ),
                limiter_queries.check_duration(0.99),
                unit="s",
                steps=STORE_TIME,
                empty=NO_CHECKS,
            ),
            figure(
                small(
                    102,
                    "Pods without the store",
                    "Pods whose breaker is open: the store failed, and is not asked until a probe "
                    "succeeds.",
                ),
                limiter_queries.pods_without_the_store(),
                unit="short",
                steps=NONE_IS_GOOD,
            ),
            figure(
                small(
                    103,
                    "Checks without the store",
                    "Part of the checks that was decided by a pod's share of the limit, let in or "
                    "refused, because the store was away.",
                ),
                limiter_queries.share_without_the_store(),
                unit="percentunit",
                steps=NONE_IS_GOOD,
            ),
            figure(
                small(
                    104,
                    "Store errors",
                    "Calls to the store that fail each second. An open breaker holds calls back, "
                    "so that a long outage has few; the first of a type on a pod do not show.",
                ),
                limiter_queries.store_errors(),
                unit="ops",
                steps=NONE_IS_BETTER,
            ),
            figure(
                small(
                    105,
                    "Event-loop lag, 99 of 100",
                    "99 of 100 timers are at most so late. A loop that is late by the store's "
                    "timeout takes a good store for a slow one.",
                ),
                limiter_queries.event_loop_lag(0.99),
                unit="s",
                steps=STORE_TIME,
            ),
            figure(
                small(
                    106,
                    "Store emptied",
                    "Times in the time looked at that the store came back without its state, so "
                    "that limits started anew.",
                ),
                limiter_queries.state_lost(),
                unit="short",
                steps=NONE_IS_GOOD,
                decimals=0,
            ),
            advice(107, links.HEALTHY, height=10),
        ),
    )


def _latency() -> Row:
    return Row(
        200,
        "Checks",
        (
            heat(
                Card(
                    201,
                    "Check latency",
                    "Checks each second by how long they took, over all pods. The dots are traces.",
                ),
                limiter_queries.check_duration_buckets(),
                unit="s",
            ),
            lines(
                Card(
                    202,
                    "Check latency by source",
                    "Half of the checks, and 99 of 100, take at most so long, by where the answer "
                    "came from: `store`, `cache` (a denial that is still good), `local`, `none`.",
                ),
                Line(limiter_queries.check_duration(0.5, names.SOURCE), "{{source}} 50 %"),
                Line(
                    limiter_queries.check_duration(0.99, names.SOURCE),
                    "{{source}} 99 %",
                    exemplars=True,
                ),
                unit="s",
                empty=NO_CHECKS,
            ),
            lines(
                Card(
                    203,
                    "Checks by source",
                    "Checks each second by where the answer came from.",
                ),
                Line(limiter_queries.decisions_by_source(), "{{source}}"),
                unit="reqps",
                stacked=True,
                colors={"local": ORANGE},
            ),
            lines(
                Card(
                    204,
                    "Denials from the cache",
                    "Denials each second, and those of them that needed no store call because the "
                    "time to retry had not come.",
                ),
                Line(denial_queries.denials(), "all denials"),
                Line(limiter_queries.cache_hits(), "from the cache"),
                unit="reqps",
            ),
        ),
    )


def _store_calls() -> Row:
    return Row(
        300,
        "Store calls",
        (
            lines(
                Card(
                    301,
                    "Store errors by type",
                    "Calls to the store that fail each second. `timeout` and `connection` pass by "
                    "themselves; `permission`, `read_only`, `out_of_memory` do not.",
                ),
                Line(limiter_queries.store_errors_by_type(), "{{error_type}}"),
                unit="ops",
            ),
            states(
                Card(
                    302,
                    "Breaker",
                    "When each pod did not ask the store. All pods: it is the store. One pod: it "
                    "is the pod, or its network.",
                ),
                Line(limiter_queries.breaker_by_pod(), "{{pod}}"),
                _BREAKER,
            ),
            lines(
                Card(
                    303,
                    "Decided without the store",
                    "Checks each second that were decided while the store was away: by a pod's "
                    "share of the limit (`local`), let in (`fail_open`), refused (`fail_closed`).",
                ),
                Line(limiter_queries.decided_locally(), "local"),
                Line(limiter_queries.decided_by_rule(), "{{outcome}}"),
                unit="reqps",
                stacked=True,
                colors={"fail_open": ORANGE, "fail_closed": RED},
            ),
            lines(
                Card(
                    304,
                    "Calls in one pipeline",
                    "Calls that travel to the store together. It grows with the load; at 64 a "
                    "pipeline is full.",
                ),
                Line(limiter_queries.average_batch_size(), "mean"),
                Line(limiter_queries.batch_size(0.99), "99 %"),
                unit="short",
                empty=NO_STORE_CALLS,
            ),
            lines(
                Card(
                    305,
                    "Store: lost state and changed servers",
                    "Pods that found the store without its state, so that limits started anew, or "
                    "another server in its place, of which the last moment may be missing.",
                    24,
                    6,
                ),
                Line(limiter_queries.pods_that_found_no_state(), "lost its state"),
                Line(limiter_queries.pods_that_found_another_server(), "another server"),
                unit="short",
            ),
        ),
    )
