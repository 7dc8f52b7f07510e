"""The row about single callers, from the logs: in metrics there are none."""

import links
import log_queries
from cards import Card, Line, Link
from fleetlimit.telemetry import names
from frame import Row
from meaning import NO_LOGS
from panels import bars_of_logs

_OF_CALLER = Link(
    "Log lines of this caller",
    links.logs(log_queries.lines_of_caller(f"${{__field.labels.{log_queries.CALLER}}}")),
)


def row() -> Row:
    """Return the row."""
    legend = f"{{{{policy}}}} {{{{{log_queries.CALLER}}}}}"
    return Row(
        500,
        "Callers",
        (
            bars_of_logs(
                Card(
                    501,
                    "Denied most",
                    "Callers with the most denials in the time looked at, from the logs, with "
                    "those that a sampled flood only counts. A caller is the hash that `/top`, "
                    "`/explain` and the store's keys show.",
                ),
                Line(log_queries.denied_most(names.LOG_DENIED), legend),
                links=(_OF_CALLER,),
                empty=NO_LOGS,
            ),
            bars_of_logs(
                Card(
                    502,
                    "Would be denied most",
                    "Callers whom policies in shadow would deny most, in the time looked at.",
                ),
                Line(log_queries.denied_most(names.LOG_SHADOW_DENIED), legend),
                links=(_OF_CALLER,),
                empty=NO_LOGS,
            ),
        ),
    )
