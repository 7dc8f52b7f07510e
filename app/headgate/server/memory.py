"""The garbage collector, set for a service: few rounds, and what was made at start left out."""

import gc

YOUNG = 10_000
"""Objects that are made before the collector looks at those who are new. Python's own 700 are less
than a crowd of requests waiting for the store is made of, and none of that is garbage."""

_before: list[tuple[int, int, int]] = []


def settle() -> None:
    """Take all that there is by now out of the collector's rounds, until `unsettle`.

    An app with its models stays as it is until the process ends. The collector, which looks at all
    that is old once enough has grown old, would go through it every few hundred requests:
    `gc.freeze` is meant for this (https://docs.python.org/3/library/gc.html#gc.freeze).
    """
    # What nobody uses any more is not to stay with the rest.
    gc.collect()
    gc.freeze()
    young, middle, old = gc.get_threshold()
    # One who has switched the collector off, or set it higher, meant it.
    if 0 < young < YOUNG:
        _before.append((young, middle, old))
        gc.set_threshold(YOUNG, middle, old)


def unsettle() -> None:
    """Let the collector look at everything again, as often as before."""
    gc.unfreeze()
    if _before:
        gc.set_threshold(*_before.pop())
