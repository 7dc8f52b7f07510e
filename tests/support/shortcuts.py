"""Shortcuts on the path to the store, which tests disable: no decision may depend on them.

`python -m support.shortcuts batching,cache serve ...` runs `fleetlimit serve ...` with two of them
disabled, for tests with several processes.
"""

import functools
import itertools
import sys
from collections.abc import Iterable
from enum import StrEnum
from importlib import import_module
from typing import Any, Final, Protocol

from fleetlimit.cli import main
from fleetlimit.limiter.denial_cache import DenialCache
from fleetlimit.stores.redis.batcher import CommandBatcher


class Shortcut(StrEnum):
    """One shortcut."""

    BATCHING = "batching"
    """Several script calls of one event-loop iteration share a pipeline."""
    COALESCING = "coalescing"
    """Several checks of a pipeline share a script call."""
    DENIAL_CACHE = "cache"
    """A denied bucket is not checked again before its retry time."""


VARIANTS: Final[dict[str, tuple[Shortcut, ...]]] = {
    "all": (),
    "no_coalescing": (Shortcut.COALESCING,),
    "no_cache": (Shortcut.DENIAL_CACHE,),
    "none": tuple(Shortcut),
}
"""Disabled shortcuts, by the name of the variant."""
ALL_OR_NONE: Final = {name: VARIANTS[name] for name in ("all", "none")}


def _batcher_without_coalescing(*args: Any, **options: Any) -> CommandBatcher:
    """Return a batcher for which each call has its own slot, so that no two share a script call."""
    slots = itertools.count()
    return CommandBatcher(*args, **{**options, "slot_of": lambda _key: next(slots)})


_PATCHES: Final[dict[Shortcut, dict[str, Any]]] = {
    Shortcut.BATCHING: {"fleetlimit.stores.redis.batcher.MAX_BATCH": 1},
    Shortcut.COALESCING: {
        "fleetlimit.stores.redis.store.CommandBatcher": _batcher_without_coalescing,
        "fleetlimit.stores.redis.cluster.CommandBatcher": _batcher_without_coalescing,
    },
    Shortcut.DENIAL_CACHE: {
        "fleetlimit.limiter.limiter.DenialCache": functools.partial(DenialCache, max_entries=0)
    },
}


class Patch(Protocol):
    """The part of `pytest.MonkeyPatch` that is used. A served process does not import pytest."""

    def setattr(self, target: str, value: Any, /) -> None:
        """Set an attribute by its full name."""


class LastingPatch:
    """Patch that is never undone."""

    def setattr(self, target: str, value: Any, /) -> None:
        """Set an attribute by its full name."""
        module, _, attribute = target.rpartition(".")
        setattr(import_module(module), attribute, value)


def disable(shortcuts: Iterable[Shortcut], patch: Patch) -> None:
    """Disable shortcuts of the limiters and stores that are made until the patch is undone."""
    for shortcut in shortcuts:
        for target, value in _PATCHES[shortcut].items():
            patch.setattr(target, value)


if __name__ == "__main__":
    disable(map(Shortcut, sys.argv.pop(1).split(",")), LastingPatch())
    main()
