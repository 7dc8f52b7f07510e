"""Watcher of a policy file: applies a valid change as a whole, and reports an invalid one once.

It watches directories and not files: a ConfigMap is updated by renaming the symlink `..data` in the
same directory, and editors rename files as well.
"""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import anyio
import anyio.to_thread

from fleetlimit.errors import ConfigError
from fleetlimit.policy_file.loader import PolicyFile, digest, load
from fleetlimit.strict_yaml import DocumentErrors

try:
    from watchfiles import awatch
except ModuleNotFoundError:  # an extra; without it files are only polled
    awatch = None  # type: ignore[assignment]  # as above

_log = logging.getLogger("fleetlimit")


class PolicyWatcher:
    """Reloads a policy file when it, or a file that its identity section names, changes.

    Args:
        path: The policy file.
        initial: Contents of the file at start.
        on_loaded: Async callback with each new file, whose generation is one above the last. It
            may raise `ConfigError` or `OSError` to reject the file.
        on_rejected: Callback with the errors of an invalid change, each as `file:line: what to
            write instead`; called once for each content. The last valid policies stay active.
        poll_s: Polling interval in seconds, in case a file-system notification is missed.
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
        """Watch the file until cancelled.

        `Fleetlimit` runs it in a `PeriodicTask`, which logs an unexpected error and restarts it.
        """
        # watchfiles logs every change in the directory at level INFO.
        logging.getLogger("watchfiles").setLevel(logging.WARNING)
        if awatch is None:
            _log.info(
                'policies.polling interval_s=%g detail="%s"',
                self._poll_s,
                "for instant reloads, pip install 'fleetlimit[server]'",
            )
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
        """Load the policy file if it or a file that it names changed since the last check."""
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
        while awatch is None:
            await anyio.sleep(self._poll_s)
            yield
        while True:
            directories = self._directories()
            try:
                async with aclosing(self._watch(directories, stop)) as changes:
                    async for _ in changes:
                        yield
                        if self._directories() != directories:
                            break
            # The directory is missing, or the inotify watches are used up: poll.
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
    """Stop the thread of `awatch`, which a cancellation does not reach."""
    try:
        await anyio.sleep_forever()
    finally:
        stop.set()


def _digest_of(path: Path) -> str:
    try:
        return digest(path.read_bytes())
    except OSError as error:
        return f"{error.strerror}"
