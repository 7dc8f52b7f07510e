"""ACL rules of the store's user, parsed from docs/operations.md."""

import re
from pathlib import Path
from typing import Final

_OPERATIONS = (Path(__file__).parents[2] / "docs/operations.md").read_text()


def _stated(pattern: str) -> tuple[str, ...]:
    (found,) = re.findall(pattern, _OPERATIONS, re.MULTILINE)
    return tuple(found.split())


ACL_RULES: Final = _stated(r"^ACL SETUSER fleetlimit on >password (.+)$")
"""Rules of the user."""
CLUSTER_RULES: Final = _stated(r"^In a Cluster add `(.+?)`")
"""Additional rules in a Cluster."""
RULES_SINCE_7_2: Final = _stated(r"^.*Servers before Redis 7.2 do not know `(.+?)`")
"""Rules that servers before Redis 7.2 do not know."""
