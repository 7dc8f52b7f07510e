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
from fleetlimit.stores.redis.scripts import Call, Command


class Saving(StrEnum):
    """Something that is saved."""

    BATCHING = "batching"
    """Pipelines: several calls of one turn of the event loop travel together."""
    FOLDING = "folding"
    """Script calls: several checks of a pipeline are one."""
    CACHE = "cache"
    """Questions: what is known to refuse is not asked for again."""


EACH: Final[dict[str, tuple[Saving, ...]]] = {
    "all": (),
    "no_folding": (Saving.FOLDING,),
    "no_cache": (Saving.CACHE,),
    "none": tuple(Saving),
}
"""What is left out, by the name of what is on."""
ALL_OR_NONE: Final = {name: EACH[name] for name in ("all", "none")}


def _apart(calls: Iterable[Call], _place: Callable[[str], int]) -> list[Command]:
    return [Command([call]) for call in calls]


_WITHOUT: Final[dict[Saving, tuple[str, Any]]] = {
    Saving.BATCHING: ("fleetlimit.stores.redis.batcher.MAX_BATCH", 1),
    Saving.FOLDING: ("fleetlimit.stores.redis.batcher.join", _apart),
    Saving.CACHE: (
        "fleetlimit.limiter.limiter.DenialCache",
        functools.partial(DenialCache, max_entries=0),
    ),
}


def leave_out(savings: Iterable[Saving], patch: pytest.MonkeyPatch) -> None:
    """Do without, until the patch is undone."""
    for saving in savings:
        patch.setattr(*_WITHOUT[saving])


if __name__ == "__main__":
    leave_out(map(Saving, sys.argv.pop(1).split(",")), pytest.MonkeyPatch())
    main()
