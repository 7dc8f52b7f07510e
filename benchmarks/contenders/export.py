"""The request that every contender serves: a small JSON body in, a small JSON body out."""

import os
from typing import Final

from pydantic import BaseModel

STORE: Final = os.environ.get("BENCH_STORE", "redis://127.0.0.1:6379/0")
LIMIT: Final = int(os.environ.get("BENCH_LIMIT", "1000000"))
"""Requests a minute that one API key may make."""
LIMITS: Final = int(os.environ.get("BENCH_LIMITS", "1"))
"""How many limits hold it: that one, and as many in longer periods."""
LEASE: Final = float(os.environ.get("BENCH_LEASE", "0")) or None
"""The part of them that is taken in one call; None for none."""
HEADER: Final = "X-API-Key"
REFUSED: Final = 429


class Export(BaseModel):
    """An export that is asked for."""

    format: str
    rows: int
    note: str = ""


class Queued(BaseModel):
    """An export that was accepted."""

    status: str
    rows: int


def queue(export: Export) -> Queued:
    """Accept an export."""
    return Queued(status="queued", rows=export.rows)
