"""Switch that turns all limits off, for tests of an app's other behaviour."""

import contextlib
import logging
from collections.abc import Iterator

from fleetlimit.limiter.limiter import LIMIT_SWITCH

_log = logging.getLogger("fleetlimit")


@contextlib.contextmanager
def unlimited() -> Iterator[None]:
    """Admit every request and every check of this process while the context is open.

    Nothing is spent and no limit header is sent. Callers are identified as before, so an invalid
    credential is rejected as before. A warning is logged, because the limits of a service must not
    be off.
    """
    _log.warning("limits.off: fleetlimit.testing.unlimited() turns off all limits of this process")
    was_off, LIMIT_SWITCH.is_off = LIMIT_SWITCH.is_off, True
    try:
        yield
    finally:
        LIMIT_SWITCH.is_off = was_off
