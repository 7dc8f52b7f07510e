"""The last good set serves on until a better one is complete."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from fleetlimit.core.quota import rate_quota
from fleetlimit.errors import ConfigError
from fleetlimit.policy_file import PolicyWatcher, load
from support.policies import ConfigMapMount, RecordingListener, one_policy, remove, write_atomically

KEYS = "identity: {api_keys: {file: keys.yaml}}\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a policy file that has been loaded before."""
    path = tmp_path / "etc" / "policies.yaml"
    path.parent.mkdir()
    path.write_text(one_policy())
    return path


def watcher(path: Path, heard: RecordingListener, *, poll_s: float = 0.05) -> PolicyWatcher:
    return PolicyWatcher(
        path,
        initial=load(path, generation=3),
        on_loaded=heard.on_loaded,
        on_rejected=heard.on_rejected,
        poll_s=poll_s,
    )


@asynccontextmanager
async def running(watcher: PolicyWatcher) -> AsyncIterator[None]:
    async with anyio.create_task_group() as group:
        group.start_soon(watcher.run)
        yield
        group.cancel_scope.cancel()


async def test_good_change(path: Path) -> None:
    """A changed file is handed on whole, one generation further."""
    heard = RecordingListener()
    async with running(watcher(path, heard)):
        write_atomically(path, one_policy("7/minute"))
        await heard.next()
        write_atomically(path, one_policy("8/minute"))
        await heard.next()

    rates = [loaded.policy_set.policies[0].limits[0] for loaded in heard.loaded]
    assert rates == [rate_quota("7/minute"), rate_quota("8/minute")]
    assert [loaded.policy_set.generation for loaded in heard.loaded] == [4, 5]
    assert heard.rejected == []


async def test_configmap_update(tmp_path: Path) -> None:
    """A mounted ConfigMap is reloaded when its symlink is swapped (envoyproxy/ratelimit #150)."""
    mount, heard = ConfigMapMount(tmp_path), RecordingListener()
    mount.write({"policies.yaml": one_policy()})
    async with running(watcher(tmp_path / "policies.yaml", heard)):
        mount.write({"policies.yaml": one_policy("7/minute")})
        await heard.next()
        mount.write({"policies.yaml": one_policy("8/minute")})
        await heard.next()

    assert [loaded.policy_set.generation for loaded in heard.loaded] == [4, 5]


async def test_without_polling(tmp_path: Path) -> None:
    """The file system's own events are enough: nobody waits for the poll (#379)."""
    mount, heard = ConfigMapMount(tmp_path), RecordingListener()
    mount.write({"policies.yaml": one_policy()})
    async with running(watcher(tmp_path / "policies.yaml", heard, poll_s=3600)):
        # One change may be found by the check at the start, before the watch stands; no second.
        for rate in range(10, 110):
            mount.write({"policies.yaml": one_policy(f"{rate}/minute")})
            with anyio.move_on_after(0.1):
                await heard.next()
            if len(heard.loaded) > 1:
                break

    assert len(heard.loaded) > 1


async def test_without_watchfiles_the_file_is_polled(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without the extra `server`, one log line names it, and changes are found by polling."""
    monkeypatch.setattr("fleetlimit.policy_file.watcher.awatch", None)
    heard = RecordingListener()
    with caplog.at_level("INFO", "fleetlimit"):
        async with running(watcher(path, heard)):
            write_atomically(path, one_policy("7/minute"))
            await heard.next()
            write_atomically(path, one_policy("8/minute"))
            await heard.next()

    assert [loaded.policy_set.generation for loaded in heard.loaded] == [4, 5]
    [message] = [record.getMessage() for record in caplog.records]
    assert message.startswith("policies.polling interval_s=0.05: ")
    assert "pip install 'fleetlimit[server]'" in message


async def test_bad_change(path: Path) -> None:
    """A bad file is told once, and the next good one is loaded."""
    heard = RecordingListener()
    async with running(watcher(path, heard)):
        write_atomically(path, one_policy("0/minute"))
        await heard.next()
        write_atomically(path, one_policy("7/minute"))
        await heard.next()

    assert heard.rejected == [
        (f"{path}:3: '0/minute' allows nothing: a rate needs at least 1 per 1 second",)
    ]
    assert [loaded.policy_set.generation for loaded in heard.loaded] == [4]


async def test_same_content(path: Path) -> None:
    """A file written again as it was is no reload, and a bad one is told once."""
    heard = RecordingListener()
    checked = watcher(path, heard)

    write_atomically(path, one_policy())
    await checked._check()
    write_atomically(path, "")
    await checked._check()
    write_atomically(path, "")
    await checked._check()

    assert heard.loaded == []
    assert len(heard.rejected) == 1


async def test_file_vanishes(path: Path) -> None:
    """A file that vanishes is a rejected change; its return is a load, even as it was."""
    heard = RecordingListener()
    async with running(watcher(path, heard)):
        remove(path)
        await heard.next()
        write_atomically(path, one_policy())
        await heard.next()

    [[fault]] = heard.rejected
    assert fault.startswith(f"{path}: the file cannot be read (No such file or directory): ")
    assert [loaded.policy_set.generation for loaded in heard.loaded] == [4]


async def test_directory_vanishes(path: Path) -> None:
    """Without its directory the file is polled for, and found when it is back."""
    heard = RecordingListener()
    aside = path.parent.with_name("aside")
    path.parent.rename(aside)
    path.parent.symlink_to(aside)
    async with running(watcher(path, heard)):
        path.parent.unlink()
        await heard.next()
        aside.rename(path.parent)
        await heard.next()

    assert len(heard.rejected) == len(heard.loaded) == 1


async def test_missing_key_directory(path: Path) -> None:
    """A directory that cannot be watched leaves the poll, not a dead watcher."""
    heard, keys = RecordingListener(), path.parent / "secrets" / "keys.yaml"
    write_atomically(path, one_policy(more="identity: {api_keys: {file: secrets/keys.yaml}}\n"))
    async with running(watcher(path, heard)):
        keys.parent.mkdir()
        write_atomically(keys, "keys: []")
        await heard.next()

    assert len(heard.loaded) == 1


async def test_key_file(path: Path) -> None:
    """A change of a file that the identity section names is a reload, wherever the file is."""
    heard, keys = RecordingListener(), path.parent.parent / "keys.yaml"
    write_atomically(keys, "one")
    async with running(watcher(path, heard)):
        write_atomically(path, one_policy("7/minute"))
        await heard.next()
        write_atomically(path, one_policy(more="identity: {api_keys: {file: ../keys.yaml}}\n"))
        await heard.next()
        write_atomically(keys, "two")
        await heard.next()

    assert [loaded.policy_set.generation for loaded in heard.loaded] == [4, 5, 6]
    assert heard.loaded[1].policy_set.digest == heard.loaded[2].policy_set.digest


@pytest.mark.parametrize("error", [ConfigError("keys.yaml:1: bad"), OSError("keys.yaml: bad")])
async def test_refused_by_the_receiver(path: Path, error: Exception) -> None:
    """A set that its receiver cannot use is rejected once and takes no generation."""
    heard = RecordingListener(reject_with=error)
    write_atomically(path.with_name("keys.yaml"), "one")
    async with running(watcher(path, heard)):
        write_atomically(path, one_policy(more=KEYS))
        await heard.next()
        heard.reject_with = None
        write_atomically(path.with_name("keys.yaml"), "two")
        await heard.next()

    assert heard.rejected == [(str(error),)]
    assert [loaded.policy_set.generation for loaded in heard.loaded] == [4]


async def test_changed_before_watching(path: Path) -> None:
    """A change between the first load and the start of the watch is not lost."""
    heard = RecordingListener()
    late = watcher(path, heard, poll_s=3600)
    write_atomically(path, one_policy("7/minute"))
    async with running(late):
        await heard.next()

    assert len(heard.loaded) == 1


async def test_stops_when_cancelled(path: Path) -> None:
    """Cancellation ends the watch at once, however long the poll."""
    with anyio.fail_after(5):
        async with running(watcher(path, RecordingListener(), poll_s=3600)):
            await anyio.lowlevel.checkpoint()
