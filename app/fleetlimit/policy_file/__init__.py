"""Policy files: parser with line numbers for every error, JSON Schema, and reload."""

from fleetlimit.policy_file.identity_schema import ApiKeysSection, IdentitySection, JwtSection
from fleetlimit.policy_file.loader import PolicyFile, json_schema, load, parse
from fleetlimit.policy_file.watcher import PolicyWatcher

__all__ = [
    "ApiKeysSection",
    "IdentitySection",
    "JwtSection",
    "PolicyFile",
    "PolicyWatcher",
    "json_schema",
    "load",
    "parse",
]
