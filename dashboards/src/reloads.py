"""The figure about reloads, which more than one board has."""

from grafana_foundation_sdk.models.dashboard import Panel

import limit_queries
from cards import small
from meaning import GREEN, NONE_IS_GOOD
from panels import figure


def last_reload(number: int, *, width: int = 4) -> Panel:
    """Show how many pods did not take the policy file that they read last.

    Args:
        number: Of the panel.
        width: Of 24 columns.
    """
    return figure(
        small(
            number,
            "Last reload",
            "Pods that rejected the policy file that they read last; there the one before "
            "serves on.",
            width,
        ),
        limit_queries.pods_with_a_rejected_file(),
        unit="short",
        steps=NONE_IS_GOOD,
        words={0: ("taken", GREEN)},
    )
