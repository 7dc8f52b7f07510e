"""The example app `deploy/examples/shop`: its own tests, its policies, and four workers."""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fleetlimit
from fleetlimit.stores.embedded import EmbeddedValkey
from support.eventually import PATIENCE_SECONDS, eventually_async
from support.server import fetch
from support.tool import ROOT, check_with_pyright

SHOP = ROOT / "deploy" / "examples" / "shop"
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(Path(fleetlimit.__file__).parents[1]), str(SHOP)]),
    "SHOP_SECRET": "a secret of the tests, with more than 32 bytes",
}


def run(*arguments: str, folder: Path = SHOP, **variables: str) -> str:
    """Run a module of Python for the shop, and return its output."""
    ended = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env={**ENVIRONMENT, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def test_own_tests_of_the_shop_pass() -> None:
    """They run as in a repository of their own."""
    options = ("-q", "-p", "no:cacheprovider", "--rootdir", ".", "-c", "/dev/null")
    assert " passed" in run("pytest", *options, "tests")


def test_every_route_of_the_shop_has_a_limit(tmp_path: Path) -> None:
    """`policies validate --strict` would fail for a route without one."""
    out = run(
        *("fleetlimit", "policies", "validate", "policies.yaml"),
        *("--target", "shop.main:app_of_environment", "--factory"),
        *("--strict", "--by-hand", "messages"),
        SHOP_DATABASE=str(tmp_path / "shop.db"),
    )
    assert "8 routes, 8 with a limit" in out


def test_shop_is_typed(tmp_path: Path) -> None:
    """Mypy finds no error in the app and its tests, in strict mode."""
    options = ("--strict", "--config-file=", f"--cache-dir={tmp_path}")
    run("mypy", *options, "shop", "tests")


def test_pyright_accepts_the_shop(tmp_path: Path) -> None:
    """Pyright finds no error in them either."""
    for part in ("shop", "tests"):
        shutil.copytree(SHOP / part, tmp_path / part)
    assert "0 errors, 0 warnings" in check_with_pyright(tmp_path)


@pytest.fixture
def workers(valkey: EmbeddedValkey, tmp_path: Path) -> Iterator[int]:
    """Serve the shop by four worker processes; return the port."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(128)
        port: int = listening.getsockname()[1]
        command = ("uvicorn", "--factory", "shop.main:app_of_environment", "--workers", "4")
        process = subprocess.Popen(
            [sys.executable, "-m", *command, "--fd", str(listening.fileno())],
            cwd=SHOP,
            env={
                **ENVIRONMENT,
                "FLEETLIMIT_STORE": valkey.url,
                "FLEETLIMIT_KEY_PREFIX": "shop",
                # Far above what a busy machine needs.
                "FLEETLIMIT_STORE_TIMEOUT": "60",
                "FLEETLIMIT_STORE_CONNECT_TIMEOUT": "60",
                "SHOP_DATABASE": str(tmp_path / "shop.db"),
            },
            pass_fds=[listening.fileno()],
        )
    yield port
    process.terminate()
    process.wait(PATIENCE_SECONDS)


async def test_four_workers_share_the_limits(workers: int) -> None:
    """As many requests are admitted by all workers as one of them would admit."""

    async def is_up() -> bool:
        try:
            return (await fetch(workers, "/health")).status == 200
        except OSError:
            return False

    await eventually_async(is_up)
    wrong = b'{"name": "alice", "password": "guess"}'
    headers = {"Content-Type": "application/json"}
    answers = await asyncio.gather(
        *(
            fetch(workers, "/v1/login", method="POST", headers=headers, body=wrong)
            for _ in range(40)
        )
    )
    statuses = sorted(each.status for each in answers)
    assert statuses == [401] * 5 + [429] * 35
