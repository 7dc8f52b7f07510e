"""Performance targets, each compared with the measured figure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from harness.lineup import (
    CHECK,
    DEPENDENCY,
    FLOOR,
    MIDDLEWARE,
    PEERS,
    SERVED,
    THREE,
    TRACED,
    compiled,
)
from harness.results import CPU, OF_BARE, Scene

Scenes = Mapping[str, Scene]


@dataclass(frozen=True, slots=True)
class Target:
    """One figure to reach.

    Args:
        name: Name of the figure.
        bound: Value to reach.
        measure: Returns the measured figure; None if it was not measured.
        is_maximum: Whether the bound is a maximum; otherwise it is a minimum.
    """

    name: str
    bound: float
    measure: Callable[[Scenes], float | None]
    is_maximum: bool = False

    def is_met(self, found: float) -> bool:
        """Return whether a measured figure reaches the bound."""
        return found <= self.bound if self.is_maximum else found >= self.bound


def _median(scene: str, contender: str, figure: str) -> Callable[[Scenes], float | None]:
    return lambda scenes: scenes[scene].median(contender, figure) if scene in scenes else None


def _ratio(
    above: Callable[[Scenes], float | None], below: Callable[[Scenes], float | None]
) -> Callable[[Scenes], float | None]:
    def found(scenes: Scenes) -> float | None:
        a, b = above(scenes), below(scenes)
        return a / b if a is not None and b else None

    return found


def _best(
    scene: str, figure: str, choose: Callable[[list[float]], float]
) -> Callable[[Scenes], float | None]:
    def found(scenes: Scenes) -> float | None:
        if scene not in scenes:
            return None
        medians = [scenes[scene].median(peer.name, figure) for peer in PEERS]
        measured = [each for each in medians if each is not None]
        return choose(measured) if measured else None

    return found


def _maximum(scene: str, contender: str) -> Callable[[Scenes], float | None]:
    def found(scenes: Scenes) -> float | None:
        rounds = scenes[scene].rounds.get(contender, []) if scene in scenes else []
        return max((value for each in rounds for value in each.values()), default=None)

    return found


_COMPILED: Final = compiled(MIDDLEWARE).name
TARGETS: Final = (
    Target("allow, middleware, of bare", 0.80, _median("allow", MIDDLEWARE.name, OF_BARE)),
    Target("allow, dependency, of bare", 0.70, _median("allow", DEPENDENCY.name, OF_BARE)),
    Target("allow, middleware, compiled, of bare", 0.80, _median("allow", _COMPILED, OF_BARE)),
    Target(
        "allow, dependency, compiled, of bare",
        0.70,
        _median("allow", compiled(DEPENDENCY).name, OF_BARE),
    ),
    Target(
        "allow, three limits, of one limit",
        0.9,
        _ratio(_median("allow", THREE.name, OF_BARE), _median("allow", MIDDLEWARE.name, OF_BARE)),
    ),
    Target("deny, of bare", 2.0, _median("deny", MIDDLEWARE.name, OF_BARE)),
    Target(
        "deny, store commands a request",
        0.01,
        _median("deny", MIDDLEWARE.name, "commands/request"),
        is_maximum=True,
    ),
    Target(
        "p99 at half load, of the best peer's",
        1.0,
        _ratio(_median("half", MIDDLEWARE.name, "p99 ms"), _best("half", "p99 ms", min)),
        is_maximum=True,
    ),
    Target(
        "p99 at half load, compiled, of the best peer's",
        1.0,
        _ratio(_median("half", _COMPILED, "p99 ms"), _best("half", "p99 ms", min)),
        is_maximum=True,
    ),
    Target(
        "p99 at the same load, of the best peer's",
        1.0,
        _ratio(
            _median("same", MIDDLEWARE.name, "p99 ms"),
            _best("same", "p99 ms", min),
        ),
        is_maximum=True,
    ),
    Target(
        "CPU at half load, of the best peer's",
        1.0,
        _ratio(_median("half", MIDDLEWARE.name, CPU), _best("half", CPU, min)),
        is_maximum=True,
    ),
    Target(
        "own check, of the best peer's",
        3.0,
        _ratio(_median("check", CHECK.name, "checks/s"), _best("check", "checks/s", max)),
    ),
    Target(
        "allow, script calls a request",
        1.0,
        _median("allow", MIDDLEWARE.name, "commands/request"),
        is_maximum=True,
    ),
    Target(
        "allow, round trips a request",
        0.1,
        _median("allow", MIDDLEWARE.name, "reads/request"),
        is_maximum=True,
    ),
    Target(
        "store time of a check, of the floor's script",
        1.5,
        _ratio(
            _median("allow", MIDDLEWARE.name, "script us/request"),
            _median("allow", FLOOR.name, "script us/request"),
        ),
        is_maximum=True,
    ),
    Target(
        "store bytes a principal, at most", 130, _maximum("keys", MIDDLEWARE.name), is_maximum=True
    ),
    Target(
        "traces at 1 %, of without",
        0.9,
        _median("traces", TRACED.name, f"of {SERVED.name}"),
    ),
    Target(
        "resident memory, many principals, of few",
        1.2,
        _median("resident", MIDDLEWARE.name, "of few"),
        is_maximum=True,
    ),
)
