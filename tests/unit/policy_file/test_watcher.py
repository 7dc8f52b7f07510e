"""PolicyWatcher: the last valid policies stay active until a valid change is complete."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from fleetlimit.core.quota import rate_quota
from fleetlimit.errors import ConfigError
from fleetlimit.policy_file import PolicyWatcher, load
from support.eventually import PATIENCE_SECONDS
from support.policies import ConfigMapMount, RecordingListener, one_policy, remove, write_atomically

KEYS = "identity: {api_keys: {file: keys.yaml}}\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a policy file that was loaded before."""
    path = tmp_path / "etc" / "policies.yaml"
    path.parent.mkdir()
    path.write_text(one_policy())
    return path


def watcher(path: Path, listener: RecordingListener, *, poll_s: float = 0.05) -> PolicyWatcher:
    return PolicyWatcher(
        path,
        initial=load(path, generation=3),
        on_loaded=listener.on_loaded,
        on_rejected=listener.on_rejected,
        poll_s=poll_s,
    )


@asynccontextmanager
async def running(watcher: PolicyWatcher) -> AsyncIterator[None]:
    async with anyio.create_task_group() as group:
        group.start_soon(watcher.run)
        yield
        group.cancel_scope.cancel()


async def test_valid_change_is_loaded(path: Path) -> None:
    """A changed file is loaded as a whole, with the next generation."""
    listener = RecordingListener()
    async with running(watcher(path, listener)):
        write_atomically(path, one_policy("7/minute"))
        await listener.next()
        write_atomically(path, one_policy("8/minute"))
        await listener.next()

    rates = [loaded.policy_set.policies[0].limits[0] for loaded in listener.loaded]
    assert rates == [rate_quota("7/minute"), rate_quota("8/minute")]
    assert [loaded.policy_set.generation for loaded in listener.loaded] == [4, 5]
    assert listener.rejected == []


async def test_configmap_update(tmp_path: Path) -> None:
    """A mounted ConfigMap is reloaded when its symlink is swapped (envoyproxy/ratelimit #150)."""
    mount, listener = ConfigMapMount(tmp_path), RecordingListener()
    mount.write({"policies.yaml": one_policy()})
    async with running(watcher(tmp_path / "policies.yaml", listener)):
        mount.write({"policies.yaml": one_policy("7/minute")})
        await listener.next()
        mount.write({"policies.yaml": one_policy("8/minute")})
        await listener.next()

    assert [loaded.policy_set.generation for loaded in listener.loaded] == [4, 5]


async def test_file_system_events_suffice(tmp_path: Path) -> None:
    """File-system events alone trigger a reload, without the poll (#379)."""
    mount, listener = ConfigMapMount(tmp_path), RecordingListener()
    mount.write({"policies.yaml": one_policy()})
    async with running(watcher(tmp_path / "policies.yaml", listener, poll_s=3600)):
        # The check at the start may find one change before the watch starts, but not a second.
        for rate in range(10, 110):
            mount.write({"policies.yaml": one_policy(f"{rate}/minute")})
            with anyio.move_on_after(0.1):
                await listener.next()
            if len(listener.loaded) > 1:
                break

    assert len(listener.loaded) > 1


async def test_without_watchfiles_the_file_is_polled(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without the extra `server`, one log line names it, and changes are found by polling."""
    monkeypatch.setattr("fleetlimit.policy_file.watcher.awatch", None)
    listener = RecordingListener()
    with caplog.at_level("INFO", "fleetlimit"):
        async with running(watcher(path, listener)):
            write_atomically(path, one_policy("7/minute"))
            await listener.next()
            write_atomically(path, one_policy("8/minute"))
            await listener.next()

    assert [loaded.policy_set.generation for loaded in listener.loaded] == [4, 5]
    [message] = [record.getMessage() for record in caplog.records]
    assert message.startswith('policies.polling interval_s=0.05 detail="')
    assert "pip install 'fleetlimit[server]'" in message


async def test_invalid_change_is_reported_once(path: Path) -> None:
    """An invalid file is reported once, and the next valid one is loaded."""
    listener = RecordingListener()
    async with running(watcher(path, listener)):
        write_atomically(path, one_policy("0/minute"))
        await listener.next()
        write_atomically(path, one_policy("7/minute"))
        await listener.next()

    assert listener.rejected == [(f"{path}:3: '0/minute' allows nothing: write numbers from 1",)]
    assert [loaded.policy_set.generation for loaded in listener.loaded] == [4]


async def test_same_content_is_ignored(path: Path) -> None:
    """Rewriting the same content is no reload, and an invalid content is reported once."""
    listener = RecordingListener()
    checked = watcher(path, listener)

    write_atomically(path, one_policy())
    await checked._check()
    write_atomically(path, "")
    await checked._check()
    write_atomically(path, "")
    await checked._check()

    assert listener.loaded == []
    assert len(listener.rejected) == 1


async def test_missing_file_is_rejected(path: Path) -> None:
    """A deleted file is a rejected change; when it returns it is loaded, even unchanged."""
    listener = RecordingListener()
    async with running(watcher(path, listener)):
        remove(path)
        await listener.next()
        write_atomically(path, one_policy())
        await listener.next()

    [[fault]] = listener.rejected
    assert fault.startswith(f"{path}: the file cannot be read (No such file or directory): ")
    assert [loaded.policy_set.generation for loaded in listener.loaded] == [4]


async def test_missing_directory_is_polled(path: Path) -> None:
    """A missing directory is polled, and the file is found when it returns."""
    listener = RecordingListener()
    aside = path.parent.with_name("aside")
    path.parent.rename(aside)
    path.parent.symlink_to(aside)
    async with running(watcher(path, listener)):
        path.parent.unlink()
        await listener.next()
        aside.rename(path.parent)
        await listener.next()

    assert len(listener.rejected) == len(listener.loaded) == 1


async def test_unwatchable_directory_is_polled(path: Path) -> None:
    """A directory that cannot be watched is polled."""
    listener, keys = RecordingListener(), path.parent / "secrets" / "keys.yaml"
    write_atomically(path, one_policy(more="identity: {api_keys: {file: secrets/keys.yaml}}\n"))
    async with running(watcher(path, listener)):
        keys.parent.mkdir()
        write_atomically(keys, "keys: []")
        await listener.next()

    assert len(listener.loaded) == 1


async def test_change_of_a_key_file_is_loaded(path: Path) -> None:
    """A change of a file that `identity` names is a reload, in any directory."""
    listener, keys = RecordingListener(), path.parent.parent / "keys.yaml"
    write_atomically(keys, "one")
    async with running(watcher(path, listener)):
        write_atomically(path, one_policy("7/minute"))
        await listener.next()
        write_atomically(path, one_policy(more="identity: {api_keys: {file: ../keys.yaml}}\n"))
        await listener.next()
        write_atomically(keys, "two")
        await listener.next()

    assert [loaded.policy_set.generation for loaded in listener.loaded] == [4, 5, 6]
    assert listener.loaded[1].policy_set.digest == listener.loaded[2].policy_set.digest


@pytest.mark.parametrize("error", [ConfigError("keys.yaml:1: bad"), OSError("keys.yaml: bad")])
async def test_rejection_by_the_callback_is_reported(path: Path, error: Exception) -> None:
    """A change that `on_loaded` rejects is reported once and does not use up a generation."""
    listener = RecordingListener(reject_with=error)
    write_atomically(path.with_name("keys.yaml"), "one")
    async with running(watcher(path, listener)):
        write_atomically(path, one_policy(more=KEYS))
        await listener.next()
        listener.reject_with = None
        write_atomically(path.with_name("keys.yaml"), "two")
        await listener.next()

    assert listener.rejected == [(str(error),)]
    assert [loaded.policy_set.generation for loaded in listener.loaded] == [4]


async def test_change_before_the_watch_starts_is_loaded(path: Path) -> None:
    """A change between the first load and the start of the watch is not lost."""
    listener = RecordingListener()
    late = watcher(path, listener, poll_s=3600)
    write_atomically(path, one_policy("7/minute"))
    async with running(late):
        await listener.next()

    assert len(listener.loaded) == 1


async def test_stops_when_cancelled(path: Path) -> None:
    """Cancellation stops the watch at once, whatever the polling interval."""
    with anyio.fail_after(PATIENCE_SECONDS):
        async with running(watcher(path, RecordingListener(), poll_s=3600)):
            await anyio.lowlevel.checkpoint()
