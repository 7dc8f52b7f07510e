"""The rule of the store's user, as docs/operations.md states it."""

import re
from pathlib import Path
from typing import Final

_OPERATIONS = (Path(__file__).parents[2] / "docs/operations.md").read_text()


def _stated(pattern: str) -> tuple[str, ...]:
    (found,) = re.findall(pattern, _OPERATIONS, re.MULTILINE)
    return tuple(found.split())


ACL_RULES: Final = _stated(r"^ACL SETUSER fleetlimit on >password (.+)$")
"""What the user may do."""
CLUSTER_RULES: Final = _stated(r"^In a Cluster add `(.+?)`")
"""What it may do besides in a Cluster."""
RULES_SINCE_7_2: Final = _stated(r"^.*Servers before Redis 7.2 do not know `(.+?)`")
"""What servers before Redis 7.2 do not know."""
