"""Search for the `usage` object in a JSON text that arrives in chunks.

The scanner follows strings and nesting, and copies nothing but the object that it searches. The
text may be of any length and depth, and a chunk may end anywhere, in an escape sequence too.
"""

import re
from collections.abc import Callable
from typing import Final

MAX_OBJECT_BYTES: Final = 16_384
"""Largest `usage` object that is read; those of the providers have some 500 bytes."""
MAX_TEXT_BYTES: Final = 8 * 1_048_576
"""Longest text that is scanned: a scan takes the event loop some 10 ms per MiB."""
_STRUCTURE: Final = re.compile(rb'["{}\[\]:]')
_STRING_END: Final = re.compile(rb'["\\]')
_MAX_KEY_BYTES: Final = 16
_USAGE: Final = b"usage"
_QUOTE, _BACKSLASH, _COLON = b'"', b"\\", b":"
_OBJECT, _OPEN = b"{", b"{["


class UsageScanner:
    """Scanner of one JSON text.

    Args:
        parent: Member of the text whose own `usage` is reported, besides that of the text itself.
        on_found: Receives each `usage` object as JSON, and whether it is the text's own.
    """

    def __init__(self, parent: bytes, on_found: Callable[[bytes, bool], None]) -> None:
        self._parent = parent
        self._on_found = on_found
        self.reset()

    def reset(self) -> None:
        """Begin another text."""
        self.too_large = False
        self._left = MAX_TEXT_BYTES
        self._depth = 0
        self._in_string = False
        self._escaped = False
        # The last string, as far as a key that is searched for can be; None if it is no such key.
        self._string: bytes | None = None
        self._outer_key: bytes | None = None
        self._inner_key: bytes | None = None
        # Depth outside of the object that is copied; -1 without one.
        self._copied_depth = -1
        self._copied = bytearray()

    def feed(self, chunk: bytes) -> None:
        """Scan the next bytes of the text."""
        if self.too_large:
            return
        self._left -= len(chunk)
        if self._left < 0:
            self.too_large = True
        else:
            self._scan(chunk)

    def _scan(self, chunk: bytes) -> None:
        # Index of the first byte that is to be copied.
        begin = 0
        at, end = 0, len(chunk)
        while at < end:
            if self._in_string:
                at = self._skip_string(chunk, at)
                continue
            found = _STRUCTURE.search(chunk, at)
            if found is None:
                break
            at, token = found.end(), found[0]
            if token == _QUOTE:
                self._in_string, self._string = True, b""
            elif token == _COLON:
                self._set_key()
            elif token in _OPEN:
                if token == _OBJECT and self._is_usage():
                    self._copied_depth, begin = self._depth, at - 1
                self._depth += 1
                self._inner_key = None
            else:
                self._close(chunk[begin:at])
        if self._copied_depth >= 0:
            self._copy(chunk[begin:])

    def _skip_string(self, chunk: bytes, at: int) -> int:
        """Return the index after the string, its next escape sequence, or the chunk."""
        if self._escaped:
            self._escaped = False
            return at + 1
        found = _STRING_END.search(chunk, at)
        stop = len(chunk) if found is None else found.start()
        if self._string is not None:
            length = len(self._string) + stop - at
            self._string = self._string + chunk[at:stop] if length <= _MAX_KEY_BYTES else None
        if found is None:
            return stop
        if found[0] == _BACKSLASH:
            self._escaped, self._string = True, None
        else:
            self._in_string = False
        return found.end()

    def _close(self, part: bytes) -> None:
        """End an object or array.

        Args:
            part: Bytes of this chunk that the object that is copied ends with.
        """
        self._depth -= 1
        if self._depth == self._copied_depth:
            self._copy(part)
            self._report()

    def _set_key(self) -> None:
        if self._depth == 1:
            self._outer_key = self._string
        elif self._depth == 2:  # noqa: PLR2004 - a member of a member of the text
            self._inner_key = self._string

    def _is_usage(self) -> bool:
        if self._copied_depth >= 0:
            return False
        if self._depth == 1:
            return self._outer_key == _USAGE
        inner = self._depth == 2 and self._inner_key == _USAGE  # noqa: PLR2004 - as above
        return inner and self._outer_key == self._parent

    def _copy(self, part: bytes) -> None:
        # One byte more shows that the object is too large.
        self._copied += part[: MAX_OBJECT_BYTES + 1 - len(self._copied)]

    def _report(self) -> None:
        is_own, copied = self._copied_depth == 1, bytes(self._copied)
        self._copied_depth = -1
        self._copied.clear()
        if len(copied) <= MAX_OBJECT_BYTES:
            self._on_found(copied, is_own)
