"""The Lua scripts of the package, each put together from its parts once."""

import hashlib
from functools import cache
from importlib.resources import files

from fleetlimit.core.quota import Algorithm
from fleetlimit.stores.command import Script

_FOLDER = files("fleetlimit.stores") / "lua"


@cache
def script(name: str, *, joined: bool = False) -> Script:
    """Return the script of this name, with the clock and the library before it.

    Args:
        name: Name of its file.
        joined: Whether calls of it that leave together are one.
    """
    library = _read("library", *Algorithm)
    parts = [_read("clock"), "local function library()", library, "return lib", "end", _read(name)]
    text = "\n".join(parts)
    sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    return Script(name, text, sha, joined=joined)


def _read(*names: str) -> str:
    return "\n".join((_FOLDER / f"{name}.lua").read_text("utf-8") for name in names)
