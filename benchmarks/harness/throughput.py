"""Throughput of contenders that run side by side and receive load in turns."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Final, TypeVar

from harness.effort import Effort
from harness.lineup import Contender
from harness.load import Load, LoadResult, send
from harness.requests import PRINCIPALS, spread
from harness.results import Figures
from harness.server import Server
from harness.store import Store, Work

Item = TypeVar("Item")

PLENTY: Final = 1_000_000
"""Requests a minute: more than any caller of the benchmark sends."""
_TURN_SECONDS: Final = 0.25
"""Shorter than the periods in which a shared core changes speed, and about 1,000 requests."""


class Traffic:
    """Requests of a scene, and the limit and store of the servers that receive them.

    Args:
        store: The store behind the servers.
        limit: Requests a minute allowed to each caller.
        requests: Returns an iterator of encoded requests.
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
        """Return the server of a contender, not started yet."""
        return Server(contender, self.store.url, limit=self._limit, principals=PRINCIPALS)


class _Totals:
    """One contender's responses and resource usage, summed over its turns."""

    def __init__(self, contender: Contender, server: Server, traffic: Traffic) -> None:
        self._contender = contender
        self._server = server
        self._store = traffic.store
        self._requests = traffic.requests()
        self._responses = LoadResult()
        self._p99s_ms: list[float] = []
        self._work = Work()
        self._cpu_seconds = 0.0

    def send(self, seconds: float, per_second: float = 0.0) -> LoadResult:
        """Send requests and return the responses.

        Raises:
            RuntimeError: A response was neither 200 nor 429.
        """
        result = send(Load(self._server.port, self._requests, seconds, per_second))
        others = {each: n for each, n in result.statuses.items() if each not in {200, 429}}
        if others:
            raise RuntimeError(f"{self._contender.name} answered {others}")
        return result

    def measure(self, seconds: float, per_second: float = 0.0) -> float:
        """Send requests, add the responses to the totals, and return the responses a second."""
        self._store.work()
        cpu_before = self._server.cpu_seconds
        result = self.send(seconds, per_second)
        self._responses.add(result)
        self._p99s_ms.append(result.quantile_ms(0.99))
        self._work += self._store.work()
        self._cpu_seconds += self._server.cpu_seconds - cpu_before
        return result.per_second

    def figures(self) -> Figures:
        """Return the figures of all turns."""
        result, work = self._responses, self._work
        return {
            "requests/s": result.per_second,
            "p50 ms": result.quantile_ms(0.5),
            # Median of the turns: a pause of the whole machine affects few of them.
            "p99 ms": median(self._p99s_ms),
            "p99 ms, all turns as one": result.quantile_ms(0.99),
            "denied": result.statuses[429] / result.responses,
            "commands/request": work.calls / result.responses,
            "reads/request": work.reads / result.responses,
            "script us/request": work.all_scripts_us / result.responses,
            "server us/request": 1e6 * self._cpu_seconds / result.responses,
            "server busy": self._cpu_seconds / result.seconds,
            "store busy": work.busy_seconds / result.seconds,
            "load busy": result.busy_seconds / result.seconds,
            "resident MB": self._server.resident_bytes / 2**20,
        }


class Round:
    """A round of short alternating turns of several contenders.

    A longer slowdown of the machine affects all contenders alike.

    Args:
        servers: The contenders' servers.
        traffic: The requests.
    """

    def __init__(self, servers: Mapping[Contender, Server], traffic: Traffic) -> None:
        self._totals = {each: _Totals(each, server, traffic) for each, server in servers.items()}
        self._rates: list[dict[Contender, float]] = []

    def warm(self, seconds: float) -> None:
        """Send requests to each contender, and discard the responses."""
        for totals in self._totals.values():
            totals.send(seconds)

    def measure(self, seconds: float, per_second: Mapping[Contender, float] | None = None) -> None:
        """Send load to each contender: as much as it answers, or at its rate in `per_second`."""
        for number in range(max(1, round(seconds / _TURN_SECONDS))):
            self._rates.append(
                {
                    each: self._totals[each].measure(
                        _TURN_SECONDS, per_second[each] if per_second else 0.0
                    )
                    for each in _rotated((*self._totals,), number)
                }
            )

    def figures(self, contender: Contender) -> Figures:
        """Return the figures of one contender."""
        return self._totals[contender].figures()

    def ratio(self, contender: Contender, base: Contender) -> float:
        """Return the ratio of two contenders' rates: the median over their turns."""
        return median(rates[contender] / rates[base] for rates in self._rates)


@contextmanager
def side_by_side(
    contenders: tuple[Contender, ...], traffic: Traffic, effort: Effort
) -> Iterator[Callable[[], Round]]:
    """Run the contenders' servers, warm them up, and yield a function that begins a round."""
    traffic.store.clear()
    with ExitStack() as stack:
        servers = {each: stack.enter_context(traffic.server(each)) for each in contenders}
        Round(servers, traffic).warm(effort.warm)
        yield lambda: Round(servers, traffic)


def measure_pair(
    base: Contender, contender: Contender, traffic: Traffic, effort: Effort
) -> tuple[Figures, Figures]:
    """Return the figures of two contenders in one round, with the ratio to the base."""
    with side_by_side((base, contender), traffic, effort) as begin:
        measured = begin()
        measured.measure(effort.seconds)
        of = f"of {base.name}"
        ratio = measured.ratio(contender, base)
        return {**measured.figures(base), of: 1.0}, {**measured.figures(contender), of: ratio}


def turns(contenders: tuple[Contender, ...], rounds: int) -> Iterator[Contender]:
    """Yield every contender once a round; each round begins with a different contender."""
    for number in range(rounds):
        yield from _rotated(contenders, number)


def _rotated(items: tuple[Item, ...], number: int) -> tuple[Item, ...]:
    """Return the items rotated left by `number`."""
    first = number % len(items)
    return items[first:] + items[:first]
