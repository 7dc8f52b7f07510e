"""Helpers for policy files: texts, a mounted ConfigMap, and a JSON Schema validator."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

from fleetlimit.policy_file import PolicyFile
from support.eventually import PATIENCE_SECONDS

PRODUCT_EXAMPLE = """\
version: 1
identity:
  trusted_proxies: [10.0.0.0/8]
  api_keys: {header: X-API-Key, file: /etc/fleetlimit/keys.yaml}   # hashed keys -> principal, tier
  jwt: {issuer: https://..., audience: api, jwks: https://..., tier_claim: plan}
defaults: {on_store_error: local, mode: enforce}
policies:
  - name: default                      # broad, for everything that nothing else names
    key: principal
    limits: [{rate: 100/minute, burst: 150}]
  - name: exports
    match: {methods: [POST], routes: [/exports]}
    key: principal
    tiers:
      free: [{rate: 5/minute}]
      pro:  [{rate: 60/minute}, {rate: 1000/day, algorithm: fixed_window}]
    on_store_error: deny
"""


def one_policy(rate: str = "5/minute", *, more: str = "") -> str:
    """Return the text of a file with one policy."""
    return f"version: 1\n{more}policies:\n  - {{name: default, limits: [{{rate: {rate}}}]}}\n"


def write_atomically(path: Path, text: str) -> None:
    """Write a file like editors do: write a temporary file, then rename it."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(text)
    temporary.rename(path)


def remove(path: Path) -> None:
    """Delete a file."""
    path.unlink()


class ConfigMapMount:
    """Directory whose files are updated like a mounted ConfigMap.

    Each version is a directory. `..data` is a symlink to the current one, replaced by a rename. The
    files are symlinks through it and never change.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._version = 0

    def write(self, files: Mapping[str, str]) -> None:
        """Replace all files by a new version, atomically."""
        self._version += 1
        version = self.directory / f"..2024_{self._version}"
        version.mkdir()
        for name, text in files.items():
            (version / name).write_text(text)
        new_data = self.directory / "..data_tmp"
        new_data.symlink_to(version.name)
        new_data.rename(self.directory / "..data")
        for name in files:
            link = self.directory / name
            if not link.is_symlink():
                link.symlink_to(os.path.join("..data", name))  # noqa: PTH118 - as the kubelet does


@dataclass(slots=True)
class RecordingListener:
    """Callbacks of a watcher that record their arguments, and let a test wait for the next."""

    loaded: list[PolicyFile] = field(default_factory=list)
    rejected: list[tuple[str, ...]] = field(default_factory=list)
    reject_with: Exception | None = None
    _changed: anyio.Event = field(default_factory=anyio.Event)

    async def on_loaded(self, loaded: PolicyFile) -> None:
        """Record a loaded file, or reject it."""
        if self.reject_with:
            raise self.reject_with
        self.loaded.append(loaded)
        self._changed.set()

    def on_rejected(self, errors: tuple[str, ...]) -> None:
        """Record the errors of a rejected file."""
        self.rejected.append(errors)
        self._changed.set()

    async def next(self) -> None:
        """Wait for the next callback."""
        with anyio.fail_after(PATIENCE_SECONDS):
            await self._changed.wait()
        self._changed = anyio.Event()


def schema_accepts(schema: Mapping[str, Any], value: Any, root: Mapping[str, Any]) -> bool:
    """Return whether a JSON Schema accepts a value; supports the keywords of this schema."""
    if "$ref" in schema and not schema_accepts(
        root["$defs"][schema["$ref"].split("/")[-1]], value, root
    ):
        return False
    if "anyOf" in schema and not any(schema_accepts(one, value, root) for one in schema["anyOf"]):
        return False
    if "oneOf" in schema and sum(schema_accepts(one, value, root) for one in schema["oneOf"]) != 1:
        return False
    if "const" in schema and value != schema["const"]:
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    return _has_type(schema, value) and _has_valid_contents(schema, value, root)


def _has_type(schema: Mapping[str, Any], value: Any) -> bool:
    types: dict[str, type] = {
        "object": dict,
        "array": list,
        "string": str,
        "integer": int,
        "boolean": bool,
        "number": float,
    }
    names = schema.get("type", [*types])
    names = [names] if isinstance(names, str) else names
    return isinstance(value, tuple(types[name] for name in names)) or "type" not in schema


def _has_valid_contents(schema: Mapping[str, Any], value: Any, root: Mapping[str, Any]) -> bool:
    if isinstance(value, list):
        return all(schema_accepts(schema.get("items", {}), item, root) for item in value)
    if not isinstance(value, dict):
        return True
    fields, rest = schema.get("properties", {}), schema.get("additionalProperties", True)
    known = rest is not False or set(value) <= set(fields)
    inner = rest if isinstance(rest, dict) else {}
    return (
        known
        and set(schema.get("required", ())) <= set(value)
        and all(schema_accepts(fields.get(name, inner), item, root) for name, item in value.items())
    )
