"""One contender under load: started, warmed up, measured, stopped."""

from collections.abc import Callable, Iterator
from typing import Final

from harness.effort import Effort
from harness.lineup import Contender
from harness.load import Heard, Load, send
from harness.requests import PRINCIPALS, spread
from harness.results import Figures
from harness.server import Server
from harness.store import Store

PLENTY: Final = 1_000_000
"""Requests a minute that nobody here can make."""


def under_load(
    store: Store,
    contender: Contender,
    effort: Effort,
    *,
    limit: int = PLENTY,
    principals: int = PRINCIPALS,
    per_second: float = 0.0,
    requests: Callable[[], Iterator[bytes]] | None = None,
    variables: dict[str, str] | None = None,
) -> Figures:
    """Return the figures of one contender in one round.

    Raises:
        RuntimeError: It answered something that is neither 200 nor 429.
    """
    sent = requests() if requests else spread(principals)
    store.clear()
    with Server(
        contender, store.url, limit=limit, principals=PRINCIPALS, variables=variables
    ) as server:
        heard = send(Load(server.port, sent, seconds=effort.warm))
        _check(contender, heard)
        store.work()
        worked = server.cpu_seconds
        heard = send(Load(server.port, sent, seconds=effort.seconds, per_second=per_second))
        _check(contender, heard)
        work = store.work()
        answered = heard.answers
        return {
            "requests/s": heard.per_second,
            "p50 ms": heard.quantile_ms(0.5),
            "p99 ms": heard.quantile_ms(0.99),
            "denied": heard.statuses[429] / answered,
            "commands/request": work.calls / answered,
            "reads/request": work.reads / answered,
            "script us/request": work.script_us * work.calls / answered,
            "server busy": (server.cpu_seconds - worked) / heard.seconds,
            "store busy": work.busy_seconds / heard.seconds,
            "load busy": heard.busy,
            "resident MB": server.resident_bytes / 2**20,
        }


def _check(contender: Contender, heard: Heard) -> None:
    others = {status: count for status, count in heard.statuses.items() if status not in {200, 429}}
    if others:
        raise RuntimeError(f"{contender.name} answered {others}")


def turns(contenders: tuple[Contender, ...], rounds: int) -> Iterator[Contender]:
    """Yield every contender once a round, each round beginning with another one."""
    for number in range(rounds):
        first = number % len(contenders)
        yield from contenders[first:] + contenders[:first]
