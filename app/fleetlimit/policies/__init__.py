"""Policy files: read with the line of every fault, described for editors, and followed."""

from fleetlimit.policies.identity import ApiKeysSection, IdentitySection, JwtSection
from fleetlimit.policies.loader import Loaded, json_schema, load, parse
from fleetlimit.policies.watcher import PolicyWatcher

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
