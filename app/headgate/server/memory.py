"""What was made at start, kept out of the garbage collector's rounds."""

import gc


def settle() -> None:
    """Take all that there is by now out of the collector's rounds, until `unsettle`.

    An app with its models stays as it is until the process ends. The collector, which looks at all
    that is old once enough has grown old, would go through it every few hundred requests:
    `gc.freeze` is meant for this (https://docs.python.org/3/library/gc.html#gc.freeze).
    """
    # What nobody uses any more is not to stay with the rest.
    gc.collect()
    gc.freeze()


def unsettle() -> None:
    """Let the collector look at everything again."""
    gc.unfreeze()
