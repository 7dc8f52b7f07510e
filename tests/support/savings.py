"""What is saved on the way to the store, to be left out: it must change no decision.

`python -m support.savings batching,cache serve ...` is the command `fleetlimit serve ...` without
two of them, for tests of several processes.
"""

import functools
import sys
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Any, Final

import pytest

from fleetlimit.cli import main
from fleetlimit.limiter.denial_cache import DenialCache
from fleetlimit.stores.redis.scripts import ScriptCall, ScriptCommand


class Shortcut(StrEnum):
    """Something that is saved."""

    BATCHING = "batching"
    """Pipelines: several calls of one turn of the event loop travel together."""
    COALESCING = "folding"
    """Script calls: several checks of a pipeline are one."""
    DENIAL_CACHE = "cache"
    """Questions: what is known to refuse is not asked for again."""


VARIANTS: Final[dict[str, tuple[Shortcut, ...]]] = {
    "all": (),
    "no_folding": (Shortcut.COALESCING,),
    "no_cache": (Shortcut.DENIAL_CACHE,),
    "none": tuple(Shortcut),
}
"""What is left out, by the name of what is on."""
ALL_OR_NONE: Final = {name: VARIANTS[name] for name in ("all", "none")}


def _never_coalesce(
    calls: Iterable[ScriptCall], _place: Callable[[str], int]
) -> list[ScriptCommand]:
    return [ScriptCommand([call]) for call in calls]


_PATCHES: Final[dict[Shortcut, tuple[str, Any]]] = {
    Shortcut.BATCHING: ("fleetlimit.stores.redis.batcher.MAX_BATCH", 1),
    Shortcut.COALESCING: ("fleetlimit.stores.redis.batcher.coalesce", _never_coalesce),
    Shortcut.DENIAL_CACHE: (
        "fleetlimit.limiter.limiter.DenialCache",
        functools.partial(DenialCache, max_entries=0),
    ),
}


def disable(shortcuts: Iterable[Shortcut], patch: pytest.MonkeyPatch) -> None:
    """Do without, until the patch is undone."""
    for saving in shortcuts:
        patch.setattr(*_PATCHES[saving])


if __name__ == "__main__":
    disable(map(Shortcut, sys.argv.pop(1).split(",")), pytest.MonkeyPatch())
    main()
