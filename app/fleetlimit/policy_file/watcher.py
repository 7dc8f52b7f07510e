"""Follow a policy file: a good change is handed on whole, a bad one is told once and left out.

The directory is watched, not the file: a ConfigMap is updated by renaming the symlink `..data`
beside it, and editors rename as well.
"""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import anyio
import anyio.to_thread
from watchfiles import awatch

from fleetlimit.errors import ConfigError
from fleetlimit.policy_file.loader import PolicyFile, digest, load
from fleetlimit.strict_yaml import DocumentErrors


class PolicyWatcher:
    """Reloads a policy file when it, or a file that its identity section names, changes.

    Args:
        path: The policy file.
        initial: What was loaded from it at start.
        on_loaded: Is awaited with each new set, its generation one above the last. It may raise
            `ConfigError` or `OSError` to refuse the set.
        on_rejected: Is called with the faults, each as `file:line: what to write instead`, once
            for each bad content; the last good set serves on.
        poll_s: Seconds after which the files are read again although nothing was heard.
    """

    def __init__(
        self,
        path: Path,
        *,
        initial: PolicyFile,
        on_loaded: Callable[[PolicyFile], Awaitable[None]],
        on_rejected: Callable[[tuple[str, ...]], None],
        poll_s: float = 10,
    ) -> None:
        self._path = path
        self._on_loaded = on_loaded
        self._on_rejected = on_rejected
        self._poll_s = poll_s
        self._generation = initial.policy_set.generation
        self._digest_by_path = self._digests(initial)

    async def run(self) -> None:
        """Follow the file until cancelled."""
        # It tells of every change in the directory, at a level that people read.
        logging.getLogger("watchfiles").setLevel(logging.WARNING)
        stop = anyio.Event()
        async with (
            anyio.create_task_group() as group,
            aclosing(self._iter_changes(stop)) as changes,
        ):
            group.start_soon(_set_when_cancelled, stop)
            await self._check()
            async for _ in changes:
                await self._check()

    async def _check(self) -> None:
        try:
            loaded = await anyio.to_thread.run_sync(self._reload)
            if loaded is not None:
                await self._on_loaded(loaded)
                self._generation = loaded.policy_set.generation
        except DocumentErrors as error:
            self._on_rejected(tuple(str(fault) for fault in error.errors))
        except (ConfigError, OSError) as error:
            self._on_rejected((str(error),))

    def _reload(self) -> PolicyFile | None:
        """Load the policy file if it or a file it names differs from what was last seen."""
        found = {path: _digest_of(path) for path in self._digest_by_path}
        if found == self._digest_by_path:
            return None
        self._digest_by_path = found
        loaded = load(self._path, generation=self._generation + 1)
        self._digest_by_path = self._digests(loaded)
        return loaded

    def _digests(self, loaded: PolicyFile) -> dict[Path, str]:
        named = {path: _digest_of(path) for path in loaded.identity.files}
        return {**named, self._path: loaded.policy_set.digest}

    async def _iter_changes(self, stop: anyio.Event) -> AsyncGenerator[None]:
        while True:
            directories = self._directories()
            try:
                async with aclosing(self._watch(directories, stop)) as changes:
                    async for _ in changes:
                        yield
                        if self._directories() != directories:
                            break
            # A directory that is not there, or no inotify watch left to be had: only poll.
            except* (OSError, RuntimeError):
                await anyio.sleep(self._poll_s)
                yield

    def _watch(self, directories: set[Path], stop: anyio.Event) -> AsyncGenerator[object]:
        return awatch(
            *directories,
            watch_filter=None,
            recursive=False,
            rust_timeout=round(self._poll_s * 1000),
            yield_on_timeout=True,
            stop_event=stop,
        )

    def _directories(self) -> set[Path]:
        return {path.parent for path in self._digest_by_path}


async def _set_when_cancelled(stop: anyio.Event) -> None:
    """Wake the watching thread, which cancellation alone does not reach."""
    try:
        await anyio.sleep_forever()
    finally:
        stop.set()


def _digest_of(path: Path) -> str:
    try:
        return digest(path.read_bytes())
    except OSError as error:
        return f"{error.strerror}"
