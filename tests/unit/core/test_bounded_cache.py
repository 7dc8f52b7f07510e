"""The bounded cache: its bound, its order of eviction, and removal."""

import pytest

from fleetlimit.core.bounded_cache import BoundedCache


def test_bounded_cache_returns_what_was_put() -> None:
    """A cached value is returned, and None for a key that is not cached."""
    cache: BoundedCache[str, int] = BoundedCache(2)
    cache.put("a", 1)
    assert (cache.get("a"), cache.get("b"), len(cache)) == (1, None, 1)


@pytest.mark.parametrize("size", [0, 1, 3])
def test_bounded_cache_never_exceeds_its_bound(size: int) -> None:
    """The oldest entries are dropped first; a cache of size 0 is always empty."""
    cache: BoundedCache[int, int] = BoundedCache(size)
    for number in range(10):
        cache.put(number, number)
        assert len(cache) <= size
    assert [number for number in range(10) if cache.get(number) is not None] == list(
        range(10 - size, 10)
    )


def test_bounded_cache_hit_does_not_protect_an_entry() -> None:
    """Eviction follows the order of insertion, not of use."""
    cache: BoundedCache[str, int] = BoundedCache(2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (None, 2, 3)


def test_bounded_cache_replaced_value_is_the_newest_entry() -> None:
    """A key that is put again keeps one entry, with the new value and the new age."""
    cache: BoundedCache[str, int] = BoundedCache(2)
    cache.put("a", 1)
    cache.put("b", 2)
    cache.put("a", 3)
    cache.put("c", 4)
    assert (cache.get("a"), cache.get("b"), len(cache)) == (3, None, 2)


def test_bounded_cache_discards_and_clears() -> None:
    """`discard` removes one entry, if it is there; `clear` removes all."""
    cache: BoundedCache[str, int] = BoundedCache(4)
    for key in ("a", "b", "c"):
        cache.put(key, 1)
    cache.discard("a")
    cache.discard("never cached")
    assert (cache.get("a"), len(cache)) == (None, 2)
    cache.clear()
    assert len(cache) == 0
