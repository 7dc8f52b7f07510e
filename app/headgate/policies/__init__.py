"""Policy files: read with the line of every fault, described for editors, and followed."""

from headgate.policies.identity import ApiKeysSection, IdentitySection, JwtSection
from headgate.policies.loader import Loaded, json_schema, load, parse
from headgate.policies.watcher import PolicyWatcher

__all__ = [
    "ApiKeysSection",
    "IdentitySection",
    "JwtSection",
    "Loaded",
    "PolicyWatcher",
    "json_schema",
    "load",
    "parse",
]
