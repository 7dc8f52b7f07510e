"""Makes the addresses of boards, of single panels and of logs."""

import json
import re
from typing import Final
from urllib.parse import quote

HOLDS: Final = "fleetlimit-holds"
THROTTLED: Final = "fleetlimit-throttled"
HEALTHY: Final = "fleetlimit-healthy"
FLEET: Final = "fleetlimit-fleet"

_PLACEHOLDER: Final = re.compile(r"(\$\{[^}]*\})")


def board(uid: str, **variables: str) -> str:
    """Return the path of a board, with the reader's time and data source.

    Args:
        uid: The board.
        variables: Values of its variables; they may be placeholders of Grafana.
    """
    chosen = "".join(f"&var-{name}={value}" for name, value in variables.items())
    return f"/d/{uid}?${{__url_time_range}}&var-datasource=${{datasource}}{chosen}"


def panel(uid: str, number: int) -> str:
    """Return the path of a single panel.

    Args:
        uid: The board that it is on.
        number: The panel's number.
    """
    return f"/d/{uid}?viewPanel={number}"


def logs(query: str) -> str:
    """Return the path of a query of the logs in Explore, over the reader's time.

    Args:
        query: LogQL; it may hold placeholders of Grafana.
    """
    source = {"type": "loki", "uid": "${loki}"}
    pane = {
        "datasource": "${loki}",
        "queries": [{"refId": "A", "datasource": source, "expr": query, "queryType": "range"}],
        "range": {"from": "${__from}", "to": "${__to}"},
    }
    return f"/explore?schemaVersion=1&panes={_encoded(json.dumps({'logs': pane}))}"


def _encoded(text: str) -> str:
    """Percent-encode all but the placeholders, which Grafana finds only as they are."""
    parts = _PLACEHOLDER.split(text)
    return "".join(part if _PLACEHOLDER.fullmatch(part) else quote(part, safe="") for part in parts)
