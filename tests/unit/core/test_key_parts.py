"""Components of keys, as text."""

import pytest

from fleetlimit.core.key_parts import KeyKind, KeyPart
from fleetlimit.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("principal", KeyPart(KeyKind.PRINCIPAL)),
        ("client_address", KeyPart(KeyKind.CLIENT_ADDRESS)),
        ("route", KeyPart(KeyKind.ROUTE)),
        ("global", KeyPart(KeyKind.GLOBAL)),
        ("header:X-Tenant", KeyPart(KeyKind.HEADER, "x-tenant")),
        ("path:Tenant_1", KeyPart(KeyKind.PATH, "Tenant_1")),
    ],
)
def test_key_part_parses(text: str, part: KeyPart) -> None:
    """A key part names a request property; header names are in lower case."""
    assert KeyPart.parse(text) == part


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ip",
        "Principal",
        "header",
        "header:",
        "header:a b",
        "header:a:b",
        "route:x",
        "global:",
        "path:",
        "path:a-b",
        "function",
    ],
)
def test_key_part_rejects_unknown_text(text: str) -> None:
    """The message lists the valid keys."""
    with pytest.raises(
        ConfigError, match=r"write principal, client_address, header:<name>, path:<name>, route"
    ):
        KeyPart.parse(text)
