"""CPU affinity: one core for the server, the other cores for load generator and store."""

import os
from typing import Final

_ALL: Final = sorted(os.sched_getaffinity(0))
SERVER: Final = frozenset(_ALL[:1])
"""One core, because the server has one worker."""
OTHERS: Final = frozenset(_ALL[1:] or _ALL)


def pin(process: int, cores: frozenset[int]) -> None:
    """Restrict a process (0: this one) to these cores."""
    os.sched_setaffinity(process, cores)
