"""How charges are written for the script, kept for those that come again."""

from collections.abc import Sequence
from functools import lru_cache

from fleetlimit.core.charge import Charge
from fleetlimit.core.quota import Quota

_MAX_KEPT = 4_096


def words(charges: Sequence[Charge], *, commit: bool) -> list[bytes]:
    """Return a word for each charge of one check."""
    begin = "1" if commit else "0"
    found = []
    for charge in charges:
        # One without a lease is the same for all callers.
        write = _write if charge.lease else _kept
        found.append(write(begin, charge.quota, charge.units, charge.group, charge.lease))
        begin = "+"
    return found


def _write(begin: str, quota: Quota, units: int, group: int, lease: str) -> bytes:
    figures = (quota.limit, quota.period_us, quota.burst, units, group)
    return " ".join(map(str, (begin, quota.algorithm.value, *figures, lease))).encode()


_kept = lru_cache(_MAX_KEPT)(_write)
