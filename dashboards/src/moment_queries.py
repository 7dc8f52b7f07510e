"""Asks when something happened, to mark it in every graph of a board."""

from fleetlimit.telemetry import names
from foreign import PROCESS_START
from promql import RELEASE, WINDOW, by, highest, of_fleetlimit, series, total


def policies_reloaded() -> str:
    """Return where sets of policies took effect or were rejected."""
    return _happened(names.POLICY_RELOADS.name, names.RESULT)


def store_came_back_empty() -> str:
    """Return where the store lost its state, so that limits started anew."""
    return _happened(names.STORE_STATE_LOST.name)


def store_away() -> str:
    """Return the releases that do not ask the store."""
    return f"{by('max', RELEASE, highest(names.BREAKER_OPEN.name))} > 0"


def process_starts() -> str:
    """Return when each pod started, in milliseconds."""
    return f"1000 * ({of_fleetlimit(series(PROCESS_START))})"


def _happened(counter: str, *labels: str) -> str:
    changes = f"changes({series(counter)}[{WINDOW}])"
    return f"{total(changes, *RELEASE, *labels)} > 0"
