"""Throughput of contenders that run side by side and receive load in turns."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Final, TypeVar

from harness.effort import Effort
from harness.lineup import Contender
from harness.load import CONNECTIONS, Load, LoadResult, send
from harness.requests import PRINCIPALS, spread
from harness.results import CPU, OF_LOAD, Figures, Scene
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
        connections: Connections of the load.
    """

    def __init__(
        self,
        store: Store,
        *,
        limit: int = PLENTY,
        requests: Callable[[], Iterator[bytes]] = lambda: spread(PRINCIPALS),
        connections: int = CONNECTIONS,
    ) -> None:
        self.store = store
        self.requests = requests
        self.connections = connections
        self._limit = limit

    def server(self, contender: Contender) -> Server:
        """Return the server of a contender, not started yet."""
        return Server(contender, self.store.url, limit=self._limit, principals=PRINCIPALS)


class _Totals:
    """One contender's responses and resource usage, summed over its turns."""

    def __init__(self, contender: Contender, server: Server, traffic: Traffic) -> None:
        self.responses = LoadResult()
        self._contender = contender
        self._server = server
        self._store = traffic.store
        self._requests = traffic.requests()
        self._connections = traffic.connections
        self._work = Work()
        self._cpu_seconds = self._cpu_before = 0.0

    def send(self, seconds: float, per_second: float = 0.0) -> LoadResult:
        """Send requests and return the responses.

        Raises:
            RuntimeError: A response was neither 200 nor 429.
        """
        load = Load(self._server.port, self._requests, seconds, per_second, self._connections)
        result = send(load, self._begin)
        others = {each: n for each, n in result.statuses.items() if each not in {200, 429}}
        if others:
            raise RuntimeError(f"{self._contender.name} answered {others}")
        return result

    def _begin(self) -> None:
        # Opened connections are no cost of a request.
        self._store.work()
        self._cpu_before = self._server.cpu_seconds

    def measure(self, seconds: float, per_second: float = 0.0) -> float:
        """Send requests, add the responses to the totals, and return the responses a second."""
        result = self.send(seconds, per_second)
        self._cpu_seconds += self._server.cpu_seconds - self._cpu_before
        self._work += self._store.work()
        self.responses.add(result)
        return result.per_second

    def figures(self) -> Figures:
        """Return the figures of all turns."""
        result, work = self.responses, self._work
        return {
            "requests/s": result.per_second,
            "denied": result.statuses[429] / result.responses,
            "commands/request": work.calls / result.responses,
            "reads/request": work.reads / result.responses,
            "script us/request": work.all_scripts_us / result.responses,
            "store us/request": 1e6 * work.busy_seconds / result.responses,
            "store bytes/request": work.net_bytes / result.responses,
            CPU: 1e6 * self._cpu_seconds / result.responses,
            "server busy": self._cpu_seconds / result.seconds,
            "store busy": work.busy_seconds / result.seconds,
            "load busy": result.busy_seconds / result.seconds,
            "p99 ms of a round": result.quantile_ms(0.99),
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
        self._per_second: Mapping[Contender, float] = {}

    def warm(self, seconds: float) -> None:
        """Send requests to each contender, and discard the responses."""
        for totals in self._totals.values():
            totals.send(seconds)

    def measure(self, seconds: float, per_second: Mapping[Contender, float] | None = None) -> None:
        """Send load to each contender: as much as it answers, or at its rate in `per_second`."""
        self._per_second = per_second or {}
        for number in range(max(1, round(seconds / _TURN_SECONDS))):
            self._rates.append(
                {
                    each: self._totals[each].measure(_TURN_SECONDS, self._per_second.get(each, 0.0))
                    for each in _rotated((*self._totals,), number)
                }
            )

    def figures(self, contender: Contender, base: Contender) -> Figures:
        """Return the figures of one contender, with its rate relative to the base contender's.

        At a rate in `per_second`, they have the share of it that the contender answered.
        """
        figures = self._totals[contender].figures()
        figures[f"of {base.name}"] = median(turn[contender] / turn[base] for turn in self._rates)
        if contender in self._per_second:
            figures[OF_LOAD] = figures["requests/s"] / self._per_second[contender]
        return figures

    def responses(self, contender: Contender) -> LoadResult:
        """Return all responses of one contender."""
        return self._totals[contender].responses


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


def saturate(contenders: tuple[Contender, ...], traffic: Traffic, effort: Effort) -> list[Round]:
    """Return rounds in which each contender receives as much load as it answers."""
    with side_by_side(contenders, traffic, effort) as begin:
        rounds = [begin() for _ in range(effort.rounds)]
        for each in rounds:
            each.measure(effort.seconds)
    return rounds


def below_saturation(
    contenders: tuple[Contender, ...],
    traffic: Traffic,
    effort: Effort,
    rates_of: Callable[[dict[Contender, float]], dict[Contender, float]],
) -> list[Round]:
    """Return rounds at a fixed rate, after one round that saturates each contender.

    Args:
        contenders: The contenders.
        traffic: The requests.
        effort: Duration and repetitions.
        rates_of: Returns the rates, from half of each contender's maximum rate.
    """
    with side_by_side(contenders, traffic, effort) as begin:
        saturating = begin()
        saturating.measure(effort.seconds)
        rates = rates_of({each: saturating.responses(each).per_second / 2 for each in contenders})
        rounds = [begin() for _ in range(effort.rounds)]
        for each in rounds:
            each.measure(effort.seconds, rates)
    return rounds


def record(scene: Scene, contenders: tuple[Contender, ...], rounds: Sequence[Round]) -> None:
    """Add the figures of each round, and the percentiles of the requests of all rounds.

    Args:
        scene: The scene that receives the figures.
        contenders: The measured contenders. The others are compared with the first.
        rounds: The measured rounds.
    """
    for contender in contenders:
        responses = LoadResult()
        for each in rounds:
            scene.add(contender.name, each.figures(contender, contenders[0]))
            responses.add(each.responses(contender))
        scene.whole[contender.name] = {
            "p50 ms": responses.quantile_ms(0.5),
            "p99 ms": responses.quantile_ms(0.99),
        }


def turns(contenders: tuple[Contender, ...], rounds: int) -> Iterator[Contender]:
    """Yield every contender once a round; each round begins with a different contender."""
    for number in range(rounds):
        yield from _rotated(contenders, number)


def _rotated(items: tuple[Item, ...], number: int) -> tuple[Item, ...]:
    """Return the items rotated left by `number`."""
    first = number % len(items)
    return items[first:] + items[:first]
