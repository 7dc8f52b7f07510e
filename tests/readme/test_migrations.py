"""Tests of the migration pages: the app after each one limits as the one before it did."""

import ast
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from fastapi.testclient import TestClient

from fleetlimit.migrate.translate import translate
from fleetlimit.testing import ManualClock
from support.pages import Load, files_of
from support.tool import ROOT

FOLDER = ROOT / "docs" / "migrations"
PAGES = sorted(FOLDER.glob("*.md"))
_BEFORE = re.compile(r"^```python\n# before, with \S+\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the store that the examples read from the environment."""
    monkeypatch.setenv("STORE_URL", "memory://")


def before(page: Path) -> str:
    """Return the app before the migration."""
    (code,) = _BEFORE.findall(page.read_text("utf-8"))
    return str(code)


def formatted(code: str) -> str:
    """Return code as the formatter of this repository writes it."""
    command = [sys.executable, "-m", "ruff", "format", "-", "--isolated", "--line-length=100"]
    return subprocess.run(command, input=code, capture_output=True, text=True, check=True).stdout


def statuses(client: TestClient, method: str, path: str, count: int, **headers: str) -> list[int]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return [client.request(method, path, headers=named).status_code for _ in range(count)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_before_is_an_app_of_the_other_package(page: Path) -> None:
    """The code before the migration is Python that imports the package, and not Fleetlimit."""
    imported = {
        (node.module or "").partition(".")[0]
        for node in ast.walk(ast.parse(before(page)))
        if isinstance(node, ast.ImportFrom)
    }
    packages = {"throttled-py": "throttled", "fastapi-redis-sdk": "redis_fastapi"}
    assert packages.get(page.stem, page.stem.replace("-", "_")) in imported
    assert "fleetlimit" not in imported


@pytest.mark.parametrize("name", ["slowapi", "fastapi-limiter"])
def test_command_turns_before_into_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The page has what `fleetlimit migrate` prints, after a formatter."""
    monkeypatch.chdir(tmp_path)
    page = FOLDER / f"{name}.md"
    Path("app.py").write_text(before(page), "utf-8")
    migration = translate(Path("app.py"))
    assert migration.is_complete
    files = files_of(page)
    (after,) = (text for file, text in files.items() if file.endswith(".py"))
    assert formatted(migration.changed[0].after) == after
    assert migration.policy_file() == files.get("policies.yaml", "")


def test_slowapi(load: Load) -> None:
    """Own limits, shared ones, default ones and exemptions hold."""
    app = load("docs/migrations/slowapi.md", "from_slowapi").app
    with TestClient(app) as client:
        for key in ("alice", "bob"):
            exports = statuses(client, "POST", "/exports", 6, x_api_key=key)
            assert exports == [200] * 5 + [429]
        assert statuses(client, "GET", "/search", 31) == [200] * 30 + [429]
        assert statuses(client, "GET", "/search", 40, x_staff="yes") == [200] * 40
        assert statuses(client, "GET", "/items/1", 61) == [200] * 60 + [429]
        assert statuses(client, "GET", "/health", 70) == [200] * 70


def test_fastapi_limiter(load: Load) -> None:
    """Each caller has its own bucket on each route."""
    app = load("docs/migrations/fastapi-limiter.md", "from_fastapi_limiter").app
    with TestClient(app) as client:
        for user in ("Alice", "bob"):
            assert statuses(client, "POST", "/exports", 6, x_user=user) == [200] * 5 + [429]
            assert statuses(client, "GET", "/search", 3, x_user=user) == [200, 200, 429]
        assert statuses(client, "GET", "/search", 1, x_user="alice") == [429]


async def test_limits(load: Load, fleetlimit_clock: ManualClock) -> None:
    """The limit of a minute and that of a day hold, and a rejected mail spends nothing."""
    worker: ModuleType = load("docs/migrations/limits.md", "from_limits")
    async with worker.limits:
        assert [await worker.send_mail("alice") for _ in range(4)] == [True, True, False, False]
        fleetlimit_clock.advance(61)
        assert [await worker.send_mail("alice") for _ in range(2)] == [True, False]
        assert await worker.send_mail("bob")


def test_throttled_py(load: Load) -> None:
    """Each route has its own limit."""
    app = load("docs/migrations/throttled-py.md", "from_throttled").app
    with TestClient(app) as client:
        assert statuses(client, "POST", "/exports", 6) == [200] * 5 + [429]
        assert statuses(client, "GET", "/search", 61) == [200] * 60 + [429]


def test_fastapi_redis_sdk(load: Load) -> None:
    """Keys, exemptions and the limit of all routes hold."""
    app = load("docs/migrations/fastapi-redis-sdk.md", "from_redis_sdk").app
    with TestClient(app) as client:
        for key in ("alice", "bob"):
            exports = statuses(client, "POST", "/exports", 6, x_api_key=key)
            assert exports == [200] * 5 + [429]
        assert statuses(client, "GET", "/search", 3) == [200, 200, 429]
        assert statuses(client, "GET", "/search", 9, x_staff="yes") == [200] * 9
