"""Server that accepts connections, and replies to none."""

import contextlib
import os
import signal
from collections.abc import Iterator

from fleetlimit.stores.embedded import EmbeddedValkey


@contextlib.contextmanager
def frozen(server: EmbeddedValkey) -> Iterator[None]:
    """Stop the process of a server, and continue it at the end."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)
