"""The audit: every replica states what it let in, and one compares the sums with the limits.

It observes and never decides. Statements travel beside the requests, every two seconds; what counts
is in the replicas' memory, so a store that loses its state is told again what had been let in.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping

from fleetlimit.core.quota import SECOND_US
from fleetlimit.errors import StoreError
from fleetlimit.limiter.active_policies import PolicyBook
from fleetlimit.limiter.audit.detector import Auditor, Finding
from fleetlimit.limiter.audit.report import Limit, Statement, read_bounds
from fleetlimit.limiter.audit.sample import Sample
from fleetlimit.limiter.circuit_breaker import Breaker
from fleetlimit.limiter.events import (
    Audited,
    BreakerState,
    Event,
    OvershootFound,
    PolicyAudit,
    StoreFailed,
)
from fleetlimit.limiter.periodic import Repeated
from fleetlimit.limiter.ports import Clock, Sleep, Store

DEFAULT_KEYS = 32
"""Callers audited for each limit."""
INTERVAL_SECONDS = 2.0
TTL_US = 6 * SECOND_US
"""A statement counts, and who made it may compare, until two more were missed."""
HELD_US = 300 * SECOND_US
"""How long what was found is shown, so that no scrape misses it."""
_log = logging.getLogger("fleetlimit")


class Audit:
    """Makes this replica's statements, and compares those of all when this is the one to do it.

    Args:
        store: Where statements are kept.
        breaker: Whether the store is asked at all.
        tell: Hears of what was found.
        clock: The process's own time.
        policies: The policies in force.
        replica: This replica's name, as in the census.
        keys: Callers audited for each limit; 0 for no audit.
        sleep: How to wait between statements.
    """

    def __init__(
        self,
        store: Store,
        breaker: Breaker,
        tell: Callable[[Event], None],
        clock: Clock,
        policies: PolicyBook,
        *,
        replica: str,
        keys: int = DEFAULT_KEYS,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.sample = Sample(keys)
        self._store = store
        self._breaker = breaker
        self._tell = tell
        self._clock = clock
        self._policies = policies
        self._replica = replica
        self._keys = keys
        self._auditor: Auditor | None = None
        self._bounds: dict[str, int] | None = None
        self._beyond: dict[tuple[Limit, str], deque[tuple[int, int]]] = {}
        self._beats = Repeated(self._beat, INTERVAL_SECONDS, sleep)

    def start(self) -> None:
        """Make statements from now on."""
        if self._keys:
            self._beats.start()

    async def _beat(self) -> None:
        try:
            await self.beat()
        except Exception:  # noqa: BLE001 - whatever it is, limits hold without an audit
            _log.exception("audit.failed")

    async def beat(self, *, last: bool = False) -> None:
        """Make a statement, compare if this replica is the one to do it, and tell."""
        found: Mapping[str, Finding] = {}
        if self._breaker.state is BreakerState.CLOSED:
            try:
                found = await self._exchange(last=last)
            except StoreError as error:
                # Not through the breaker: nobody's request depends on it.
                self._tell(StoreFailed("audit", error))
        self._hold(found)
        self._report(found)

    async def _exchange(self, *, last: bool) -> Mapping[str, Finding]:
        word = self._auditor.word if self._auditor is not None else ""
        statement = self.sample.state()
        posted = await self._store.audit(self._replica, statement, word, TTL_US, last=last)
        self.sample.stated(posted.now_us)
        bounds = read_bounds(posted.word)
        # A store that lost its state has none until the next comparison.
        self._bounds = self._bounds if bounds is None else bounds
        if not posted.statements:
            self._auditor = None
            return {}
        if self._auditor is None:
            self._auditor = Auditor(self._keys)
        heard = {}
        for replica, (at_us, text) in posted.statements.items():
            heard[replica] = (at_us, Statement.parse(text))
            # Those of a large fleet take a while to read: requests go on in between.
            await asyncio.sleep(0)
        return self._auditor.compare(posted.now_us, heard)

    def _hold(self, found: Mapping[str, Finding]) -> None:
        """Keep what was found until it has been shown for long enough."""
        now_us = self._clock.now_us()
        for finding in found.values():
            for key, units in finding.beyond.items():
                self._beyond.setdefault(key, deque()).append((now_us, units))
            if finding.beyond:
                limit, caller = worst = max(finding.beyond, key=lambda key: finding.beyond[key])
                units = finding.beyond[worst]
                self._tell(OvershootFound(limit.policy, limit.quota.name, caller, units))
        for key, held in list(self._beyond.items()):
            while held and held[0][0] <= now_us - HELD_US:
                held.popleft()
            if not held:
                del self._beyond[key]

    def _report(self, found: Mapping[str, Finding]) -> None:
        overshoot: dict[str, int] = {}
        for (limit, _), held in self._beyond.items():
            units = sum(units for _, units in held)
            overshoot[limit.policy] = max(units, overshoot.get(limit.policy, 0))
        admitted = self.sample.admitted(self._bounds)
        in_force = {policy.name for policy in self._policies.current.policies}
        named = sorted(in_force | admitted.keys() | found.keys() | overshoot.keys())
        self._tell(
            Audited(
                tuple(
                    PolicyAudit(
                        policy=name,
                        overshoot=overshoot.get(name, 0),
                        keys=finding.keys,
                        windows=finding.windows,
                        admitted=admitted.get(name, 0),
                        permitted=finding.permitted,
                    )
                    for name in named
                    for finding in (found.get(name) or Finding(),)
                )
            )
        )

    async def aclose(self) -> None:
        """Stop, with a last statement of what was let in until now."""
        if await self._beats.stop():
            await self.beat(last=True)
