"""Two objectives, and the alerts of their error budgets: decided by the shared limit, and in time.

A budget is watched over pairs of windows with the burn rates of Google's SRE Workbook, chapter 5:
the long one says that it matters, the short one that it still goes on.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import links
from alert import PAGE, TICKET, Alert
from recordings import CHECKS, DEGRADED, OBJECTIVE_SECONDS, SLOW, recorded, share

AVAILABILITY: Final = 0.999
"""Share of checks that the shared limit is to decide."""
LATENCY: Final = 0.99
"""Share of checks that are to take at most `OBJECTIVE_SECONDS`."""
FEWEST: Final = "0.1"
"""Checks each second; where there are fewer, one of them would be an emergency."""


@dataclass(frozen=True, slots=True)
class Burn:
    """How fast a budget is spent, and how urgent that is.

    Args:
        rate: Times faster than it would last for 30 days.
        lasts: How long it lasts so.
        long: Window that says that it matters.
        short: Window that says that it still goes on.
        lasting: How long both must say so.
        severity: `PAGE` or `TICKET`.
    """

    rate: str
    lasts: str
    long: str
    short: str
    lasting: str
    severity: str


BURNS: Final = (
    Burn("14.4", "50 hours", "1h", "5m", "2m", PAGE),
    Burn("6", "5 days", "6h", "30m", "15m", PAGE),
    Burn("3", "10 days", "1d", "2h", "1h", TICKET),
    Burn("1", "30 days", "3d", "6h", "3h", TICKET),
)


def burning() -> Iterator[Alert]:
    """Return the alerts of both objectives."""
    yield from _of(
        "FleetlimitAvailabilityBurn",
        DEGRADED,
        AVAILABILITY,
        summary="Too many requests are decided without the shared limit",
        what="were decided without the shared limit",
        panel="Decided without the store",
    )
    yield from _of(
        "FleetlimitLatencyBurn",
        SLOW,
        LATENCY,
        summary="Too many checks are slow",
        what=f"took longer than {OBJECTIVE_SECONDS * 1000:g} ms",
        panel="Check latency by source",
    )


def _of(
    name: str, checks: str, objective: float, *, summary: str, what: str, panel: str
) -> Iterator[Alert]:
    for burn in BURNS:
        yield Alert(
            name,
            _burns(checks, objective, burn),
            burn.lasting,
            burn.severity,
            summary,
            _spent(burn, what),
            (links.HEALTHY, panel),
            window=burn.long,
        )


def _burns(checks: str, objective: float, burn: Burn) -> str:
    budget = f"{1 - objective:.3g}"
    over = (
        f"{recorded(share(checks, window))} > {burn.rate} * {budget}"
        for window in (burn.long, burn.short)
    )
    enough = f"avg_over_time({recorded(CHECKS)}[{burn.long}]) > {FEWEST}"
    return "\nand ".join((*over, enough))


def _spent(burn: Burn, what: str) -> str:
    return (
        f"Over {burn.long}, {{{{ $value | humanizePercentage }}}} of the checks of "
        f"{{{{ $labels.job }}}} {what}: the error budget of 30 days lasts {burn.lasts} or less."
    )
