"""How charges are written for the script, kept for those that come again."""

from collections.abc import Sequence
from typing import Any

from headgate.core.charge import Charge

MAX_KEPT = 4_096

Written = tuple[list[str], list[bytes]]
"""Keys, and a word for each."""


class Words:
    """Writes the charges of checks.

    A caller who comes again has the same plan and the same charges, which are found by what they
    are and not by what they say.
    """

    def __init__(self) -> None:
        self._kept: dict[int, tuple[Any, Written]] = {}

    def of(self, charges: Sequence[Charge], *, commit: bool) -> Written:
        """Return the keys of one check's charges, and a word for each."""
        found = self._kept.get(id(charges))
        if found is not None and commit and found[0] is charges:
            return found[1]
        written = [charge.key for charge in charges], words(charges, commit=commit)
        # A list may say something else next time, and a lease is taken once.
        if commit and isinstance(charges, tuple) and not any(each.lease for each in charges):
            if len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            self._kept[id(charges)] = charges, written
        return written


def words(charges: Sequence[Charge], *, commit: bool) -> list[bytes]:
    """Return a word for each charge of one check."""
    begin = "1" if commit else "0"
    found = []
    for _, quota, units, lease, group in charges:
        figures = (quota.limit, quota.period_us, quota.burst, units, group)
        found.append(" ".join(map(str, (begin, quota.algorithm.value, *figures, lease))).encode())
        begin = "+"
    return found
