"""Asks the exporters of the stores: memory, evictions, commands, roles, keys."""

import foreign
from promql import OF_STORES, by, increase, one_of, rate, series, total

_INSTANCE = "instance"


def reachable() -> str:
    """Return 1 where every store answers its exporter, and 0 where one does not."""
    return f"min({_store(foreign.STORE_UP)})"


def fullest() -> str:
    """Return the used part of the memory of the fullest store, of those that have a limit."""
    used = by("max", (_INSTANCE,), _store(foreign.STORE_MEMORY))
    limit = by("max", (_INSTANCE,), _store(foreign.STORE_MEMORY_LIMIT))
    return f"max({used} / ({limit} > 0))"


def evicted() -> str:
    """Return how many keys were evicted, in the time looked at."""
    return f"sum({increase(foreign.STORE_EVICTED, of=OF_STORES)})"


def evicted_by_instance() -> str:
    """Return the keys evicted each second."""
    return total(rate(foreign.STORE_EVICTED, of=OF_STORES), _INSTANCE)


def primaries() -> str:
    """Return 1 for each store that is a primary, and 0 for each that is not."""
    primary = series(foreign.STORE_ROLE, one_of("role", "master"), of=OF_STORES)
    others = by("count", (_INSTANCE,), _store(foreign.STORE_ROLE))
    return f"{by('max', (_INSTANCE,), primary)} or 0 * {others}"


def memory_by_instance() -> str:
    """Return the memory that each store uses."""
    return by("max", (_INSTANCE,), _store(foreign.STORE_MEMORY))


def memory_limit_by_instance() -> str:
    """Return the memory that each store may use, where there is a limit."""
    return f"{by('max', (_INSTANCE,), _store(foreign.STORE_MEMORY_LIMIT))} > 0"


def commands_by_instance() -> str:
    """Return the commands that each store runs each second."""
    return total(rate(foreign.STORE_COMMANDS, of=OF_STORES), _INSTANCE)


def keys_by_instance() -> str:
    """Return the keys that each store holds."""
    return total(_store(foreign.STORE_KEYS), _INSTANCE)


def clients() -> str:
    """Return the connections that the stores have."""
    return f"sum({_store(foreign.STORE_CLIENTS)})"


def _store(name: str) -> str:
    return series(name, of=OF_STORES)
