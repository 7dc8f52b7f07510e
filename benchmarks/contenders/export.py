"""Request and response of every contender: small JSON bodies, and the configured limit."""

import os
from typing import Final

from pydantic import BaseModel

STORE: Final = os.environ.get("BENCH_STORE", "redis://127.0.0.1:6379/0")
LIMIT: Final = int(os.environ.get("BENCH_LIMIT", "1000000"))
"""Requests a minute allowed to one API key."""
LIMITS: Final = int(os.environ.get("BENCH_LIMITS", "1"))
"""Number of limits: `LIMIT` a minute, then the same number in 2, 3, ... minutes."""
PREFETCH: Final = float(os.environ.get("BENCH_PREFETCH", "0")) or None
"""Fraction of the limit that one store call acquires ahead; None for no prefetch."""
HEADER: Final = "X-API-Key"


class Export(BaseModel):
    """A requested export."""

    format: str
    rows: int
    note: str = ""


class Queued(BaseModel):
    """An accepted export."""

    status: str
    rows: int


def queue(export: Export) -> Queued:
    """Accept an export."""
    return Queued(status="queued", rows=export.rows)
