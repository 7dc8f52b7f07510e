"""Bounded cache: a mapping of limited size that drops its oldest entry when it is full.

First in, first out: a hit moves nothing, so it costs one dictionary lookup. Dropping one entry at a
time avoids the burst of misses that emptying the whole cache would cause.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class BoundedCache(Generic[Key, Value]):
    """Cache of at most `max_entries` values.

    Args:
        max_entries: Upper bound on the number of entries; 0 caches nothing.

    Attributes:
        get: Returns the cached value of a key, or None. It is the dictionary's own method, because
            a check looks up several caches.
    """

    __slots__ = ("_entries", "_max_entries", "get")

    def __init__(self, max_entries: int) -> None:
        self._max_entries = max_entries
        self._entries: OrderedDict[Key, Value] = OrderedDict()
        self.get: Callable[[Key], Value | None] = self._entries.get

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, key: Key, value: Value) -> None:
        """Cache a value; a key that is replaced becomes the newest entry."""
        entries = self._entries
        entries[key] = value
        entries.move_to_end(key)
        if len(entries) > self._max_entries:
            entries.popitem(last=False)

    def discard(self, key: Key) -> None:
        """Remove the entry of a key, if there is one."""
        self._entries.pop(key, None)

    def clear(self) -> None:
        """Remove all entries."""
        self._entries.clear()
