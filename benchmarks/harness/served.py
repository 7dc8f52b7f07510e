"""Contenders under load: started, warmed up, measured, stopped."""

from collections.abc import Callable, Iterator
from statistics import median
from typing import Final

from harness.effort import Effort
from harness.lineup import Contender
from harness.load import Heard, Load, send
from harness.requests import PRINCIPALS, spread
from harness.results import Figures
from harness.server import Server
from harness.store import Store, Work

PLENTY: Final = 1_000_000
"""Requests a minute that nobody here can make."""
_TURN_SECONDS: Final = 0.25
"""Short beside the time in which the speed of a shared core changes, and a thousand requests."""


class Traffic:
    """What is sent, and what to.

    Args:
        store: The store behind the servers.
        limit: Requests a minute that a caller may make.
        requests: Makes what is sent.
    """

    def __init__(
        self,
        store: Store,
        *,
        limit: int = PLENTY,
        requests: Callable[[], Iterator[bytes]] = lambda: spread(PRINCIPALS),
    ) -> None:
        self.store = store
        self.requests = requests
        self._limit = limit

    def server(self, contender: Contender) -> Server:
        """Return a server of a contender, not started yet."""
        return Server(contender, self.store.url, limit=self._limit, principals=PRINCIPALS)


class _Account:
    """What one contender served, in one stretch or in several turns."""

    def __init__(self, contender: Contender, server: Server, traffic: Traffic) -> None:
        self._contender = contender
        self._server = server
        self._store = traffic.store
        self._requests = traffic.requests()
        self._heard = Heard()
        self._work = Work()
        self._cpu_seconds = 0.0

    def send(self, seconds: float, per_second: float = 0.0) -> Heard:
        """Send requests, and return what was answered.

        Raises:
            RuntimeError: It answered something that is neither 200 nor 429.
        """
        heard = send(Load(self._server.port, self._requests, seconds, per_second))
        others = {each: n for each, n in heard.statuses.items() if each not in {200, 429}}
        if others:
            raise RuntimeError(f"{self._contender.name} answered {others}")
        return heard

    def measure(self, seconds: float, per_second: float = 0.0) -> float:
        """Send requests, enter what was done into the account, and return the answers a second."""
        self._store.work()
        worked = self._server.cpu_seconds
        heard = self.send(seconds, per_second)
        self._heard.add(heard)
        self._work += self._store.work()
        self._cpu_seconds += self._server.cpu_seconds - worked
        return heard.per_second

    def figures(self) -> Figures:
        """Return what the account says."""
        heard, work = self._heard, self._work
        return {
            "requests/s": heard.per_second,
            "p50 ms": heard.quantile_ms(0.5),
            "p99 ms": heard.quantile_ms(0.99),
            "denied": heard.statuses[429] / heard.answers,
            "commands/request": work.calls / heard.answers,
            "reads/request": work.reads / heard.answers,
            "script us/request": work.all_scripts_us / heard.answers,
            "server us/request": 1e6 * self._cpu_seconds / heard.answers,
            "server busy": self._cpu_seconds / heard.seconds,
            "store busy": work.busy_seconds / heard.seconds,
            "load busy": heard.busy_seconds / heard.seconds,
            "resident MB": self._server.resident_bytes / 2**20,
        }


def under_load(
    contender: Contender, traffic: Traffic, effort: Effort, *, per_second: float = 0.0
) -> Figures:
    """Return the figures of one contender in one round, at so many requests a second or at most."""
    traffic.store.clear()
    with traffic.server(contender) as server:
        account = _Account(contender, server, traffic)
        account.send(effort.warm)
        account.measure(effort.seconds, per_second)
        return account.figures()


def beside(
    base: Contender, contender: Contender, traffic: Traffic, effort: Effort
) -> tuple[Figures, Figures]:
    """Return the figures of two contenders in one round, whose servers take turns.

    Each ratio is that of two turns side by side, so that what slows the machine down for longer
    slows both. That of the round is their median.
    """
    traffic.store.clear()
    with traffic.server(base) as first, traffic.server(contender) as second:
        one, other = _Account(base, first, traffic), _Account(contender, second, traffic)
        for each in (one, other):
            each.send(effort.warm)
        ratios = []
        for number in range(max(1, round(effort.seconds / _TURN_SECONDS))):
            # Neither is always the one that comes after the other.
            order = (one, other) if number % 2 else (other, one)
            rates = {each: each.measure(_TURN_SECONDS) for each in order}
            ratios.append(rates[other] / rates[one])
        of = f"of {base.name}"
        return {**one.figures(), of: 1.0}, {**other.figures(), of: median(ratios)}


def turns(contenders: tuple[Contender, ...], rounds: int) -> Iterator[Contender]:
    """Yield every contender once a round, each round beginning with another one."""
    for number in range(rounds):
        first = number % len(contenders)
        yield from contenders[first:] + contenders[:first]
