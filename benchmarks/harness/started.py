"""How long a replica takes from its start until it serves, and what takes the most of that."""

import re
import subprocess
import sys
from collections import Counter
from typing import Final

from harness.effort import Effort
from harness.lineup import BARE, MIDDLEWARE, SERVED, Company
from harness.requests import PRINCIPALS
from harness.results import Scene
from harness.served import PLENTY, turns
from harness.server import Server
from harness.store import Store

_LINE: Final = re.compile(r"import time: +(\d+) \| +\d+ \| *([\w.]+)")
_SHOWN: Final = 6


def starts(store: Store, effort: Effort, company: Company) -> Scene:  # noqa: ARG001 - as all scenes
    """Start each, and import by itself what `fleetlimit serve` imports."""
    scene = Scene("start", "seconds from start until connections are accepted")
    for contender in turns((BARE, MIDDLEWARE, SERVED), effort.rounds):
        store.clear()
        with Server(contender, store.url, limit=PLENTY, principals=PRINCIPALS) as server:
            scene.add(contender.name, {"seconds": server.started})
    for _ in range(effort.rounds):
        costs = _imports()
        scene.add("of it, all imports", {"seconds": costs.total()})
        for package, seconds in costs.most_common(_SHOWN):
            scene.add(f"of it, import of {package}", {"seconds": seconds})
    return scene


def _imports() -> Counter[str]:
    """Return the seconds that each package takes to be imported, without those it imports."""
    said = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import fleetlimit.cli"],
        check=True,
        capture_output=True,
        text=True,
    ).stderr
    costs: Counter[str] = Counter()
    for micros, module in _LINE.findall(said):
        costs[module.partition(".")[0]] += int(micros) / 1e6  # type: ignore[assignment]  # seconds
    return costs
