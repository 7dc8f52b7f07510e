"""The garbage collector, set for a service: few rounds, and what was made at start left out."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

GC_THRESHOLD = 10_000
"""Objects that are made before the collector looks at those who are new. Python's own 700 are less
than a crowd of checks waiting for the store is made of, and none of that is garbage."""


@contextmanager
def raised_gc_threshold() -> Iterator[None]:
    """Let the collector wait for more new objects, and in the end for as many as before."""
    young, middle, old = gc.get_threshold()
    # One who has switched the collector off, or set it higher, meant it.
    if not 0 < young < GC_THRESHOLD:
        yield
        return
    gc.set_threshold(GC_THRESHOLD, middle, old)
    try:
        yield
    finally:
        gc.set_threshold(young, middle, old)


def freeze_heap() -> None:
    """Take all that there is by now out of the collector's rounds, until `unfreeze`.

    An app with its models stays as it is until the process ends. The collector, which looks at all
    that is old once enough has grown old, would go through it every few hundred requests:
    `gc.freeze` is meant for this (https://docs.python.org/3/library/gc.html#gc.freeze).
    """
    # What nobody uses any more is not to stay with the rest.
    gc.collect()
    gc.freeze()


def unfreeze_heap() -> None:
    """Let the collector look at everything again."""
    gc.unfreeze()
