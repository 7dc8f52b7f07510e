"""Which cores the server has for itself, and which are left to load and store."""

import os
from typing import Final

_ALL: Final = sorted(os.sched_getaffinity(0))
SERVER: Final = frozenset(_ALL[:1])
"""One worker runs on one core."""
OTHERS: Final = frozenset(_ALL[1:] or _ALL)


def pin(process: int, cores: frozenset[int]) -> None:
    """Let a process, 0 for this one, run on these cores only."""
    os.sched_setaffinity(process, cores)
