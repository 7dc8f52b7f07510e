"""Reading of a tree of files: what is left out, what cannot be read, and that nothing runs."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fleetlimit import cli
from fleetlimit.errors import ConfigError
from fleetlimit.migrate import source, translate
from fleetlimit.migrate.result import Migration

APP = """\
from fastapi import FastAPI, Request
from slowapi import Limiter
from slowapi.util import get_remote_address

limiter = Limiter(key_func=get_remote_address)
app = FastAPI()
app.state.limiter = limiter


@app.get("/a")
@limiter.limit("2/minute")
def a(request: Request) -> None: ...
"""


def run(*arguments: str) -> tuple[int, str]:
    """Run the command in this process; return exit status and output."""
    result = CliRunner().invoke(cli.app, ["migrate", *arguments])
    if isinstance(result.exception, ConfigError):
        raise result.exception
    return result.exit_code, result.stdout


def test_code_is_never_run(tmp_path: Path) -> None:
    """A module that would do something at import does nothing."""
    marker = tmp_path / "ran"
    file = tmp_path / "app.py"
    file.write_text(f"open({str(marker)!r}, 'w')\n{APP}")
    assert run(str(file))[0] == 0
    assert not marker.exists()
    assert file.read_text().endswith(APP)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"from slowapi import Limiter\nx = (\n", "is not Python, in line"),
        (b"# -*- coding: nonsense -*-\nimport slowapi\n", "is not text in the encoding"),
        (b"import slowapi  # \xff\n", "is not text in the encoding"),
        (b"import slowapi\n\x00", "is not Python"),
        (b"import slowapi\nx = " + b"(" * 5_000 + b")" * 5_000, "is not Python"),
        (b"import slowapi\nx = " + b"-" * 100_000 + b"1", "is not Python"),
    ],
    ids=["syntax", "encoding", "bytes", "null", "parentheses", "operators"],
)
def test_file_that_cannot_be_read_is_listed_and_the_rest_translated(
    tmp_path: Path, content: bytes, message: str
) -> None:
    """The reason is printed, and the command goes on and exits with 3."""
    (tmp_path / "bad.py").write_bytes(content)
    (tmp_path / "good.py").write_text(APP)
    status, out = run(str(tmp_path))
    assert status == 3
    assert f"bad.py: {message}" in out
    assert 'RateLimit("2/minute")' in out


def test_file_that_is_too_large_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A generated file is not parsed."""
    monkeypatch.setattr(source, "MAX_FILE_BYTES", 10)
    (tmp_path / "app.py").write_text(APP)
    status, out = run(str(tmp_path))
    assert status == 3
    assert "app.py: is larger than 10 bytes" in out


def test_files_without_a_limiter_may_be_anything(tmp_path: Path) -> None:
    """Only a file that names a limiter has to be Python."""
    (tmp_path / "template.py").write_text("{{ cookiecutter }} limiter (")
    (tmp_path / "data.py").write_bytes(b"\xff")
    status, out = run(str(tmp_path))
    assert (status, out) == (0, "no slowapi and no fastapi-limiter in 2 Python files\n")


def test_environments_and_links_are_left_out(tmp_path: Path) -> None:
    """The code of installed packages is not the app's, and a link may lead around in a circle."""
    for folder in (".venv", "venv", "node_modules", "__pycache__", "lib/site-packages"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "app.py").write_text(APP)
    (tmp_path / "loop").symlink_to(tmp_path)
    assert "0 Python files" in run(str(tmp_path))[1]


def test_too_many_files_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to name."""
    monkeypatch.setattr(translate, "MAX_FILES", 1)
    for name in ("a.py", "b.py"):
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match="name a part of it"):
        run(str(tmp_path))


def test_missing_path_is_an_error(tmp_path: Path) -> None:
    """A path that does not exist has exit status 1."""
    with pytest.raises(ConfigError, match="there is no such file or directory"):
        run(str(tmp_path / "none"))


def test_algorithm_without_a_rate_is_an_error(tmp_path: Path) -> None:
    """`concurrency` counts requests in progress."""
    with pytest.raises(ConfigError, match="has no rate"):
        run(str(tmp_path), "--algorithm", "concurrency")
    with pytest.raises(ConfigError, match="token_bucket"):
        run(str(tmp_path), "--algorithm", "nonsense")


def test_policies_and_patch_are_written_to_new_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`git apply` accepts the patch; an existing file is never replaced."""
    monkeypatch.chdir(tmp_path)
    Path("app.py").write_text(APP.replace("address)", 'address, default_limits=["9/day"])'))
    options = ("--write-policies", "limits.yaml", "--write-patch", "edits.patch")
    assert run("app.py", "--policies", "limits.yaml", *options)[0] == 3
    assert "rate: 9/day" in Path("limits.yaml").read_text()
    subprocess.run(["git", "apply", "edits.patch"], check=True)  # noqa: S607 - the git of the path
    assert 'Fleetlimit(policies="limits.yaml")' in Path("app.py").read_text()
    with pytest.raises(ConfigError, match=r"limits\.yaml exists: write the name of a new file"):
        run("app.py", *options)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_patch_keeps_the_ends_of_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """A file with CRLF, other characters, or without a last line feed is patched, too."""
    monkeypatch.chdir(tmp_path)
    text = "# grüße \x0c 日本\n" + APP.replace('"/a"', '"/ä"').rstrip("\n")
    Path("app.py").write_bytes(text.replace("\n", end).encode())
    assert run("app.py", "--write-patch", "edits.patch")[0] == 0
    subprocess.run(["git", "apply", "edits.patch"], check=True)  # noqa: S607 - the git of the path
    patched = Path("app.py").read_bytes().decode()
    assert f'@app.get("/ä", dependencies=[Depends(RateLimit("2/minute"))]){end}def a' in patched
    assert patched.count("\n") == patched.count(end)


def test_report_states_what_is_left(translated: Callable[..., Migration]) -> None:
    """The last line has the numbers, and each place has its file and line."""
    report = translated(APP + "limiter.reset()\n").report("policies.yaml")
    assert report.endswith("1 file read, 1 file to edit, 0 policies, 1 place by hand\n")
    assert "app/main.py:13: limiter.reset()\n    `reset` of slowapi's Limiter: in a test" in report


def test_module_form_of_the_command(tmp_path: Path) -> None:
    """`python -m fleetlimit migrate` imports neither slowapi nor FastAPI."""
    (tmp_path / "app.py").write_text(APP)
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['slowapi', 'fastapi', 'starlette']))\n"
        f"sys.argv = ['fleetlimit', 'migrate', {str(tmp_path)!r}]\n"
        "from fleetlimit.__main__ import main; main()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "RateLimit" in ended.stdout
