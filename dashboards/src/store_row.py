"""The row about the server of the store, by its exporter."""

import store_queries
from cards import Card, Line
from frame import Row
from meaning import BLUE, FULL, GREEN, NEUTRAL, NO_EXPORTER, NO_MEMORY_LIMIT, NONE_IS_GOOD, RED
from panels import figure, lines, states


def row() -> Row:
    """Return the row."""
    return Row(
        500,
        "Redis or Valkey",
        (
            figure(
                Card(501, "Store answers", "Whether all stores answer their exporters.", 6, 4),
                store_queries.reachable(),
                unit="none",
                steps=((None, RED), (1, GREEN)),
                words={0: ("no", RED), 1: ("yes", GREEN)},
                empty=NO_EXPORTER,
            ),
            figure(
                Card(
                    502,
                    "Fullest store",
                    "Used part of the memory that the store may use. A full store refuses writes.",
                    6,
                    4,
                ),
                store_queries.fullest(),
                unit="percentunit",
                steps=FULL,
                empty=NO_MEMORY_LIMIT,
            ),
            figure(
                Card(
                    503,
                    "Keys evicted",
                    "Keys evicted in the time looked at: their callers started anew. Set "
                    "`maxmemory-policy noeviction`.",
                    6,
                    4,
                ),
                store_queries.evicted(),
                unit="short",
                steps=NONE_IS_GOOD,
                decimals=0,
                empty=NO_EXPORTER,
            ),
            figure(
                Card(
                    504, "Connections", "Connections to the stores, of Fleetlimit and others.", 6, 4
                ),
                store_queries.clients(),
                unit="short",
                steps=NEUTRAL,
                empty=NO_EXPORTER,
            ),
            lines(
                Card(505, "Memory", "Memory that each store uses, and dashed what it may use.", 8),
                Line(store_queries.memory_by_instance(), "{{instance}}"),
                Line(store_queries.memory_limit_by_instance(), "{{instance}} at most"),
                unit="bytes",
                dashed="at most",
                empty=NO_EXPORTER,
            ),
            lines(
                Card(506, "Commands", "Commands that each store runs each second.", 8),
                Line(store_queries.commands_by_instance(), "{{instance}}"),
                unit="ops",
                empty=NO_EXPORTER,
            ),
            lines(
                Card(507, "Evictions", "Keys that each store evicts each second.", 8),
                Line(store_queries.evicted_by_instance(), "{{instance}}"),
                unit="ops",
                empty=NO_EXPORTER,
            ),
            lines(
                Card(
                    508,
                    "Keys",
                    "Keys in all databases of each store: one for each limit and caller that was "
                    "used within its life, where the store is Fleetlimit's alone.",
                ),
                Line(store_queries.keys_by_instance(), "{{instance}}"),
                unit="short",
                empty=NO_EXPORTER,
            ),
            states(
                Card(
                    509,
                    "Role",
                    "Whether each store was the primary. After a change the last moment of what "
                    "was spent may be missing.",
                ),
                Line(store_queries.primaries(), "{{instance}}"),
                {0: ("replica", BLUE), 1: ("primary", GREEN)},
                empty=NO_EXPORTER,
            ),
        ),
    )
