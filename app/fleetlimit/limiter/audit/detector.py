"""Compares what all replicas let in with what the limits permit; one replica does it for all.

It judges a slot once every replica had the time to state it, and never by guessing: where something
may be missing that would have made room, the bucket's audit starts anew. What a replica let in and
did not live to state is missing, too, which can only make the sum too small.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from fleetlimit.core.quota import SECOND_US
from fleetlimit.limiter.audit.ledger import Ledger, open_ledger, rank, room, slot_us
from fleetlimit.limiter.audit.report import (
    NO_WORD,
    PENDING,
    Account,
    Limit,
    Statement,
    write_bounds,
)

LAG_US = 10 * SECOND_US
"""A slot is judged so long after its end: time for a replica to miss two statements."""
KEPT_US = 30 * SECOND_US
"""How long the last statement of a replica that has gone is remembered."""
_GRACE_US = SECOND_US
"""An answer of the store may be so long on its way to a replica that makes a statement."""
_MAX_GAP = 720
"""Slots without any audit, after which a ledger is not worth being continued: an hour."""
_MAX_AGE_US = 600 * SECOND_US
"""A ledger is not opened at an older slot: it could be from before a break that nobody tells of."""


@dataclass(slots=True)
class Finding:
    """What was found of a policy since the last time.

    Args:
        keys: Callers that are audited.
        windows: Slots of callers' limits that were compared.
        permitted: Units that the limits added in these slots.
        beyond: Units let in beyond a limit, by limit and caller.
    """

    keys: int = 0
    windows: int = 0
    permitted: float = 0.0
    beyond: dict[tuple[Limit, str], int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Said:
    """One replica's account of a bucket, stated at a time of the store's clock."""

    at_us: int
    account: Account


@dataclass(slots=True)
class _Open:
    """A bucket's ledger, and the slot that is judged next."""

    ledger: Ledger
    slot: int


class Auditor:
    """Keeps a ledger for each bucket that is audited.

    Args:
        keys: Callers audited for each limit.
    """

    def __init__(self, keys: int) -> None:
        self._keys = keys
        self._heard: dict[str, tuple[int, Statement]] = {}
        self._open: dict[tuple[Limit, str], _Open] = {}
        self._bounds: dict[str, int] | None = None
        self._first_us = 0
        self._since_us = 0
        self._last_us = 0

    @property
    def word(self) -> str:
        """What all replicas are to know: the largest hash that is audited, where some are not."""
        return "" if self._bounds is None else write_bounds(self._bounds)

    def compare(
        self, now_us: int, stated: Mapping[str, tuple[int, Statement]]
    ) -> dict[str, Finding]:
        """Judge what can be judged by now.

        Args:
            now_us: The store's time.
            stated: Each replica's last statement, and when it was made.

        Returns:
            A finding for each policy of which anything was stated.
        """
        if now_us - self._last_us > LAG_US:
            # After an outage, too, every replica is to have had the time for a statement.
            self._since_us = now_us
        self._first_us = self._first_us or now_us
        self._last_us = now_us
        self._heard.update(stated)
        chosen, bounds = self._choose()
        found: dict[str, Finding] = {limit.policy: Finding() for limit, _ in chosen}
        if now_us - self._since_us >= LAG_US:
            self._bounds = bounds
            self._open = {key: each for key, each in self._open.items() if key in chosen}
            breaks = self._breaks()
            for (limit, caller), said in chosen.items():
                self._judge(
                    limit,
                    caller,
                    said,
                    begin_us=breaks.get((limit.policy, limit.quota.name, caller), 0),
                    end_us=now_us - LAG_US,
                    finding=found[limit.policy],
                )
            # Not before: what a replica stated before an outage is judged only now.
            self._heard = {
                name: heard for name, heard in self._heard.items() if heard[0] > now_us - KEPT_US
            }
        for policy, finding in found.items():
            callers = {caller for limit, caller in self._open if limit.policy == policy}
            finding.keys = len(callers)
        return found

    def _choose(self) -> tuple[dict[tuple[Limit, str], list[_Said]], dict[str, int]]:
        """Return what was said of each bucket that is audited, and the bounds of that choice."""
        union: dict[Limit, dict[str, list[_Said]]] = {}
        for at_us, statement in self._heard.values():
            for limit, accounts in statement.accounts.items():
                callers = union.setdefault(limit, {})
                for caller, account in accounts.items():
                    callers.setdefault(caller, []).append(_Said(at_us, account))
        chosen, bounds = {}, {}
        for limit, callers in union.items():
            smallest = sorted(callers, key=rank)[: self._keys]
            chosen.update({(limit, caller): callers[caller] for caller in smallest})
            if len(smallest) < len(callers):
                bounds[str(limit)] = rank(smallest[-1])[0]
        return chosen, bounds

    def _breaks(self) -> dict[tuple[str, str, str], float]:
        """Return until when nothing counts, by policy, limit and caller."""
        found: dict[tuple[str, str, str], float] = {}
        for _, statement in self._heard.values():
            for key, at_us in statement.breaks.items():
                until = math.inf if at_us == PENDING else at_us
                found[key] = max(until, found.get(key, 0))
        return found

    def _judge(
        self,
        limit: Limit,
        caller: str,
        said: list[_Said],
        *,
        begin_us: float,
        end_us: int,
        finding: Finding,
    ) -> None:
        """Judge a bucket's slots that begin after one time and end before another."""
        length = slot_us(limit.quota)
        last = end_us // length - 1
        key = (limit, caller)
        if begin_us > end_us or any(_may_miss_room(each, (last + 1) * length) for each in said):
            self._open.pop(key, None)
            return
        first = max(int(begin_us) // length + 1, *(each.account.first for each in said))
        found = self._open.get(key)
        if found is None or found.slot < first or last - found.slot > _MAX_GAP:
            # Who was gone before the first comparison is not known, nor what it gave back.
            first = max(first, self._first_us // length, (end_us - _MAX_AGE_US) // length)
            found = _opened(limit, said, first, last, finding)
            if found is None:
                self._open.pop(key, None)
                return
            self._open[key] = found
        for slot in range(found.slot, last + 1):
            units = sum(
                spent.units for each in said if (spent := each.account.spent(slot)) is not None
            )
            finding.windows += 1
            finding.permitted += found.ledger.permitted(slot)
            found.ledger, beyond = found.ledger.close(slot, units)
            found.slot = slot + 1
            if beyond:
                finding.beyond[key] = finding.beyond.get(key, 0) + beyond


def _may_miss_room(said: _Said, end_us: int) -> bool:
    """Tell whether a replica may have given units back that it has not stated."""
    return said.account.gives_back and said.at_us < end_us + _GRACE_US


def _opened(
    limit: Limit, said: list[_Said], first: int, last: int, finding: Finding
) -> _Open | None:
    """Begin with the first slot of which the store's own word says how the bucket stood."""
    slots: dict[int, tuple[int, int]] = {}
    for each in said:
        for slot in map(int, filter(str.isdecimal, each.account.slots)):
            spent = each.account.spent(slot)
            if spent is not None and first <= slot <= last:
                word = (spent.after_us, spent.before)
                slots[slot] = min(word, slots.get(slot, word))
    told = {slot: before for slot, (_, before) in slots.items() if before != NO_WORD}
    if not told:
        return None
    slot = min(told)
    finding.permitted += room(limit.quota, told[slot])
    return _Open(open_ledger(limit.quota, slot, told[slot]), slot)
