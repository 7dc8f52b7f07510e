"""New API keys, and their hashes in a key file."""

import hashlib
import json
import secrets
import tempfile
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from fleetlimit.errors import ConfigError
from fleetlimit.identity.api_keys import KeyEntry, load_entries

KEY_PREFIX: Final = "fl_"
"""Start of every new key, by which scanners of secrets can find one in code."""
_KEY_BYTES: Final = 32


def new_key(principal: str, tier: str | None = None) -> tuple[str, KeyEntry]:
    """Return a random API key of 256 bits, and its entry for a key file.

    Args:
        principal: Name of the caller, of 1 to 256 characters.
        tier: Tier of the caller, of at most 64 characters; None for none.

    Raises:
        ConfigError: The name or the tier is invalid.
    """
    key = KEY_PREFIX + secrets.token_urlsafe(_KEY_BYTES)
    digest = hashlib.sha256(key.encode()).hexdigest()
    if not principal.isprintable() or not (tier or "").isprintable():
        raise ConfigError("the name and the tier of a caller have no control characters")
    try:
        return key, KeyEntry(sha256=digest, principal=principal, tier=tier or None)
    except ValidationError as error:
        detail = error.errors(include_input=False)[0]
        raise ConfigError(f"{detail['loc'][0]}: {detail['msg']}") from None


def entry_line(entry: KeyEntry) -> str:
    """Return an entry as an item of the list `keys`, without indentation."""
    tier = f", tier: {_quoted(entry.tier)}" if entry.tier else ""
    return f"- {{sha256: {entry.sha256}, principal: {_quoted(entry.principal)}{tier}}}"


def _quoted(text: str) -> str:
    """Return a text in YAML; in quotes, unless no reader takes it for another type."""
    if text.isascii() and text.isalpha() and text.lower() not in _WORDS:
        return text
    return json.dumps(text, ensure_ascii=False)


_WORDS: Final = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n", "nan"})
"""Words that some version of YAML reads as another type."""


def append_entry(file: Path, entry: KeyEntry) -> None:
    """Append an entry to a key file, which is created if it is missing, and keep all other lines.

    The file is replaced in one step, so that a server that reads it sees the old or the new text.

    Raises:
        ConfigError: The file is invalid, cannot be written, or its list is not one that a line can
            be appended to. It is unchanged then.
    """
    # A ConfigMap or a deployment may have made a link of it.
    file = file.resolve()
    before = load_entries(file) if file.exists() else ()
    text = file.read_text("utf-8") if file.exists() else "keys:\n"
    changed = _with_line(text, entry_line(entry))
    try:
        after = load_entries(file, changed.encode())
    except ConfigError:
        after = ()
    if after != (*before, entry):
        raise ConfigError(
            f"{file}: no line can be appended to this list: write each key on a line of its own, "
            "as `- {sha256: ..., principal: ...}`, or append the line without --append"
        )
    try:
        _replace(file, changed)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {error.strerror}") from error


def _with_line(text: str, line: str) -> str:
    """Return a text with a further line, indented as the last item of a list in it."""
    items = [each for each in text.splitlines() if each.lstrip().startswith("- ")]
    indent = items[-1][: len(items[-1]) - len(items[-1].lstrip())] if items else "  "
    lines = text.rstrip()
    if lines.endswith("keys: []"):
        lines = lines.removesuffix(" []")
    return f"{lines}\n{indent}{line}\n"


def _replace(file: Path, text: str) -> None:
    mode = file.stat().st_mode & 0o777 if file.exists() else 0o600
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=file.parent, delete=False) as new:
        new.write(text)
    try:
        Path(new.name).chmod(mode)
        Path(new.name).replace(file)
    except OSError:
        Path(new.name).unlink(missing_ok=True)
        raise
