"""Contenders under load: started beside each other, warmed up, measured in turn, stopped."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Final, TypeVar

from harness.effort import Effort
from harness.lineup import Contender
from harness.load import Heard, Load, send
from harness.requests import PRINCIPALS, spread
from harness.results import Figures
from harness.server import Server
from harness.store import Store, Work

Item = TypeVar("Item")

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
        self._p99s_ms: list[float] = []
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
        self._p99s_ms.append(heard.quantile_ms(0.99))
        self._work += self._store.work()
        self._cpu_seconds += self._server.cpu_seconds - worked
        return heard.per_second

    def figures(self) -> Figures:
        """Return what the account says."""
        heard, work = self._heard, self._work
        return {
            "requests/s": heard.per_second,
            "p50 ms": heard.quantile_ms(0.5),
            # Of its turns: what stops the whole machine for a moment falls on few of them.
            "p99 ms": median(self._p99s_ms),
            "p99 ms, all turns as one": heard.quantile_ms(0.99),
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


class Round:
    """What contenders served in turn, for a short time each, again and again.

    What slows the machine down for longer slows all of them.

    Args:
        servers: The contenders' servers.
        traffic: What is sent.
    """

    def __init__(self, servers: Mapping[Contender, Server], traffic: Traffic) -> None:
        self._accounts = {each: _Account(each, server, traffic) for each, server in servers.items()}
        self._rates: list[dict[Contender, float]] = []

    def warm(self, seconds: float) -> None:
        """Send requests to each, and forget what was answered."""
        for account in self._accounts.values():
            account.send(seconds)

    def measure(self, seconds: float, per_second: Mapping[Contender, float] | None = None) -> None:
        """Send requests to each for so many seconds: as many as it answers, or at its own rate."""
        for number in range(max(1, round(seconds / _TURN_SECONDS))):
            self._rates.append(
                {
                    each: self._accounts[each].measure(
                        _TURN_SECONDS, per_second[each] if per_second else 0.0
                    )
                    for each in _rotated((*self._accounts,), number)
                }
            )

    def figures(self, contender: Contender) -> Figures:
        """Return the figures of one contender."""
        return self._accounts[contender].figures()

    def ratio(self, contender: Contender, base: Contender) -> float:
        """Return the ratio of two contenders' rates, the median of those of their turns."""
        return median(rates[contender] / rates[base] for rates in self._rates)


@contextmanager
def side_by_side(
    contenders: tuple[Contender, ...], traffic: Traffic, effort: Effort
) -> Iterator[Callable[[], Round]]:
    """Run the servers of contenders, warmed up, and yield what begins a round of them."""
    traffic.store.clear()
    with ExitStack() as stack:
        servers = {each: stack.enter_context(traffic.server(each)) for each in contenders}
        Round(servers, traffic).warm(effort.warm)
        yield lambda: Round(servers, traffic)


def beside(
    base: Contender, contender: Contender, traffic: Traffic, effort: Effort
) -> tuple[Figures, Figures]:
    """Return the figures of two contenders in one round, with the ratio to the first."""
    with side_by_side((base, contender), traffic, effort) as begin:
        taken = begin()
        taken.measure(effort.seconds)
        of = f"of {base.name}"
        ratio = taken.ratio(contender, base)
        return {**taken.figures(base), of: 1.0}, {**taken.figures(contender), of: ratio}


def turns(contenders: tuple[Contender, ...], rounds: int) -> Iterator[Contender]:
    """Yield every contender once a round, each round beginning with another one."""
    for number in range(rounds):
        yield from _rotated(contenders, number)


def _rotated(items: tuple[Item, ...], number: int) -> tuple[Item, ...]:
    """Return items in their order, beginning with another one for each number."""
    first = number % len(items)
    return items[first:] + items[:first]
