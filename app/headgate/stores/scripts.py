"""The Lua scripts of the package, each put together from its parts once."""

import hashlib
from functools import cache
from importlib.resources import files

from headgate.core.quota import Algorithm
from headgate.stores.command import Script

_FOLDER = files("headgate.stores") / "lua"


@cache
def script(name: str, *, joined: bool = False) -> Script:
    """Return the script of this name, with the prelude and every algorithm before it.

    Args:
        name: Name of its file.
        joined: Whether calls of it that leave together are one.
    """
    parts = ["prelude", *(algorithm.value for algorithm in Algorithm), name]
    text = "\n".join((_FOLDER / f"{part}.lua").read_text("utf-8") for part in parts)
    sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    return Script(name, text, sha, joined=joined)
