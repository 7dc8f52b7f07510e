"""Limiters that are broken on purpose: an experiment that does not notice them proves nothing.

Each is broken by values of the chart. `pytest tests/e2e --broken KIND` runs the experiments with
one of them, and expects each to fail; `test_broken.py` runs one experiment with each kind.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from support.tool import ROOT

Values = Mapping[str, Any]
"""Content of a file with values of the chart."""
Breakage = Callable[[Sequence[Values]], Sequence[Values]]
"""Returns the values of a release with a broken limiter for those of a release that works."""

_DOUBLED: Final = {
    "{rate: 30/minute, burst: 6}": "{rate: 60/minute, burst: 12}",
    "{rate: 4 per 10 s, ": "{rate: 8 per 10 s, ",
    "{rate: 10/hour}": "{rate: 20/hour}",
    "rate: 5/minute": "rate: 10/minute",
    "{rate: 4/second, burst: 48}": "{rate: 8/second, burst: 96}",
    "{rate: 48 per 12 s, ": "{rate: 96 per 12 s, ",
}
"""Limits of all experiments, and their doubles. A limit that is changed under load stays."""
_SCRIPT: Final = ROOT / "app/fleetlimit/stores/redis/lua/acquire.lua"
_IN_IMAGE: Final = (
    "/opt/fleetlimit/lib/python3.11/site-packages/fleetlimit/stores/redis/lua/acquire.lua"
)
"""Path of the script in the image; its Python version is that of BASE_IMAGE."""
_FIRST_LINE: Final = "local keys, encoded_charges, reply = KEYS, ARGV, { now }\n"
# Even and odd microseconds have a bucket each.
_MUTATION: Final = "for i, key in ipairs(KEYS) do KEYS[i] = key .. now % 2 end\n"
_NAME: Final = "broken-script"
_OWN_STORES: Final = "own-stores"


def works(values: Sequence[Values]) -> Sequence[Values]:
    """Return the values unchanged."""
    return values


def with_own_stores(values: Sequence[Values]) -> Sequence[Values]:
    """Give each pod a store of its own.

    The URL is in a Secret, because the chart refuses it as a value.
    """
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": _OWN_STORES},
        "stringData": {"url": "memory://"},
    }
    store = {
        "valkey": {"enabled": False},
        "externalRedis": {"existingSecret": {"name": _OWN_STORES}},
    }
    return (*values, store | {"extraObjects": [*_last(values, "extraObjects"), secret]})


def with_doubled_policies(values: Sequence[Values]) -> Sequence[Values]:
    """Double each limit of the policies."""
    return [_with_doubled_policies(each) for each in values]


def with_mutated_script(values: Sequence[Values]) -> Sequence[Values]:
    """Replace the script that decides by one with two buckets for each caller."""
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": _NAME},
        "data": {_SCRIPT.name: mutated_script()},
    }
    more = {
        "extraObjects": config_map,
        "extraVolumes": {"name": _NAME, "configMap": {"name": _NAME}},
        "extraVolumeMounts": {
            "name": _NAME,
            "mountPath": _IN_IMAGE,
            "subPath": _SCRIPT.name,
            "readOnly": True,
        },
    }
    # Helm does not merge lists: those of the last file count.
    return (*values, {key: [*_last(values, key), added] for key, added in more.items()})


BROKEN: Final[Mapping[str, Breakage]] = {
    "own-stores": with_own_stores,
    "doubled-policies": with_doubled_policies,
    "mutated-script": with_mutated_script,
}


WITH_STORE: Final = ("doubled-policies", "mutated-script")
"""Kinds for an experiment that acts on the store of the pods, or brings its own."""


def mutated_script() -> str:
    """Return the script with the mutation.

    Raises:
        ValueError: The script has no place for it.
    """
    text = _SCRIPT.read_text(encoding="utf-8")
    if text.count(_FIRST_LINE) != 1:
        raise ValueError(f"{_SCRIPT.name} has no single line {_FIRST_LINE!r}: adapt the mutation")
    return text.replace(_FIRST_LINE, _MUTATION + _FIRST_LINE)


def _with_doubled_policies(values: Values) -> Values:
    policies = values.get("policies", {})
    if "inline" not in policies:
        return values
    text = policies["inline"]
    for limit, double in _DOUBLED.items():
        text = text.replace(limit, double)
    return {**values, "policies": {**policies, "inline": text}}


def _last(values: Sequence[Values], key: str) -> list[object]:
    return next((each[key] for each in reversed(values) if key in each), [])
