"""What the kernel says of a process, on Linux."""

import os
from pathlib import Path
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(process: int) -> float:
    """Return the seconds of CPU that a process has used so far, its threads included."""
    # The name, in parentheses, may hold spaces.
    fields = Path(f"/proc/{process}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def resident_bytes(process: int) -> int:
    """Return the memory that a process holds."""
    return int(Path(f"/proc/{process}/statm").read_text("utf-8").split()[1]) * _PAGE
