"""Policy files of the Fleetlimit contenders."""

import json
from pathlib import Path
from typing import Any, Final

from harness.requests import key_file

_SETS: Final[dict[str, list[str]]] = {
    "one": ["{limit}/minute"],
    "auto": ["{limit}/minute"],
    "three": ["{limit}/minute", "50000000/hour", "60000000/day"],
}
_PREFETCHING: Final = "auto"
"""The policy file with `prefetch: auto`."""


def write(folder: Path, *, limit: int, principals: int) -> dict[str, Path]:
    """Write every policy file, and a file of API keys next to them.

    Args:
        folder: Folder of the files.
        limit: Requests a minute.
        principals: Number of API keys; 0 to key the limits on the header itself.

    Returns:
        The policy files by name.
    """
    found = {}
    head: dict[str, Any] = {"version": 1}
    if principals:
        (folder / "keys.yaml").write_text(key_file(principals), "utf-8")
        keys = str(folder / "keys.yaml")
        head["identity"] = {"api_keys": {"header": "X-API-Key", "file": keys}}
    for name, rates in _SETS.items():
        policy = {
            "name": "exports",
            "match": {"methods": ["POST"], "routes": ["/exports"]},
            "key": "principal" if principals else "header:x-api-key",
            "limits": [{"rate": rate.format(limit=limit)} for rate in rates],
        }
        if name == _PREFETCHING:
            policy["prefetch"] = "auto"
        found[name] = folder / f"{name}.yaml"
        # JSON is YAML.
        found[name].write_text(json.dumps({**head, "policies": [policy]}), "utf-8")
    return found
