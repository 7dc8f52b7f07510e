"""The row about what Fleetlimit's own pods use and lose."""

import limiter_queries
from cards import Card, Line
from frame import Row
from panels import lines
from promql import POD


def row() -> Row:
    """Return the row."""
    return Row(
        400,
        "Pods",
        (
            lines(
                Card(
                    401,
                    "Event-loop lag",
                    "99 of 100 timers of a pod's event loop are at most so late: so late is all "
                    "else that waits for its turn.",
                ),
                Line(limiter_queries.event_loop_lag(0.99, POD), "{{pod}}"),
                unit="s",
            ),
            lines(
                Card(402, "CPU by pod", "Cores that each pod uses. One process can use one."),
                Line(limiter_queries.cpu_by_pod(), "{{pod}}"),
                unit="short",
            ),
            lines(
                Card(403, "Memory by pod", "Resident memory of each pod's process."),
                Line(limiter_queries.memory_by_pod(), "{{pod}}"),
                unit="bytes",
            ),
            lines(
                Card(
                    404,
                    "Telemetry held back",
                    "Spans each second that no collector took, and denials that the log only "
                    "counts. The second are intended; the first mean that traces are missing.",
                ),
                Line(limiter_queries.spans_dropped(), "spans dropped"),
                Line(limiter_queries.log_lines_held_back(), "denials without a line"),
                unit="cps",
            ),
        ),
    )
