"""Switch that turns off all limits of the process, for tests of an app's other behaviour."""

from typing import Final


class LimitSwitch:
    """Switch of all limits of the process; `fleetlimit.testing.unlimited` turns it off."""

    def __init__(self) -> None:
        self.is_off = False
        self._contexts = 0

    def turn_off(self) -> None:
        """Turn all limits off, until `restore` was called as often."""
        self._contexts += 1
        self.is_off = True

    def restore(self) -> None:
        """Turn all limits on again if no other context has turned them off."""
        self._contexts -= 1
        self.is_off = self._contexts > 0


LIMIT_SWITCH: Final = LimitSwitch()
