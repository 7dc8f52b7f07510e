"""Credentials of the store: fixed ones, or ones that each new connection reads again.

IAM tokens expire, and Vault and operators replace passwords. redis-py asks a `CredentialProvider`
for the credentials at each connection. A connection that is open stays logged in until the server
closes it.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from redis.credentials import CredentialProvider

from fleetlimit.errors import ConfigError
from fleetlimit.stores.redis.errors import CredentialError

MAX_FILE_BYTES: Final = 65_536
"""Bytes of a credentials file. The longest tokens of cloud providers have a few thousand."""
MAX_THREADS: Final = 16
"""Most threads that wait for the credentials of a store, whose connections open together."""
_FORM = "write the password on one line, or the user and the password on two"


@dataclass(frozen=True, slots=True)
class Credentials:
    """Credentials apart from those in the store URL, over which they take precedence.

    Args:
        username: ACL user.
        password: Password.
        file: File with the password, or with the user and the password on two lines, in place of
            `password`.
        provider: Provider from code, in place of all others.

    Raises:
        ConfigError: The file cannot be used, `provider` is none, or the password is given twice.
    """

    username: str | None = None
    password: str | None = None
    file: Path | None = None
    provider: CredentialProvider | None = None

    def __post_init__(self) -> None:
        if self.password and self.file is not None:
            raise ConfigError(
                "the password of the store and a credentials file are both given: leave out "
                "FLEETLIMIT_STORE_PASSWORD or FLEETLIMIT_STORE_CREDENTIALS_FILE"
            )
        if self.file is not None:
            _CredentialsFile(self.file, self.username).read()
        if self.provider is None:
            return
        if not isinstance(self.provider, CredentialProvider):
            raise ConfigError(
                f"credential_provider is {self.provider!r}: give an instance of a subclass of "
                "redis.CredentialProvider"
            )
        self._require_provider_alone(self.username, self.password, self.file)

    def _require_provider_alone(self, *others: object) -> None:
        if any(others):
            raise ConfigError(
                "credential_provider gives the user and the password of the store: leave them out "
                "of the store URL and of FLEETLIMIT_STORE_USERNAME, FLEETLIMIT_STORE_PASSWORD and "
                "FLEETLIMIT_STORE_CREDENTIALS_FILE"
            )

    def options(self, url_username: str, url_password: str) -> dict[str, Any]:
        """Return redis-py's options.

        Args:
            url_username: ACL user in the store URL.
            url_password: Password in the store URL.

        Raises:
            ConfigError: There is a provider, and credentials in the URL.
        """
        username = self.username or url_username
        if self.provider is not None:
            self._require_provider_alone(url_username, url_password)
            return {"credential_provider": _CheckedProvider(self.provider)}
        if self.file is not None:
            return {"credential_provider": _CredentialsFile(self.file, username)}
        given = {"username": username, "password": self.password or url_password}
        return {name: value for name, value in given.items() if value}


class _BlockingReader(CredentialProvider):
    """Provider that reads in threads of its own.

    In those of the event loop, reads that do not return would leave none for the app and for DNS.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(MAX_THREADS, "fleetlimit-credentials")

    async def _in_thread(self, read: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, read)


class _CredentialsFile(_BlockingReader):
    """Credentials in a file.

    Args:
        path: Path of the file.
        username: ACL user, unless the file has one.
    """

    def __init__(self, path: Path, username: str | None) -> None:
        super().__init__()
        self._path = path
        self._username = username

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        try:
            # In a thread, because the file may be on a network.
            credentials: tuple[str] | tuple[str, str] = await self._in_thread(self.read)
        except ConfigError as error:
            raise CredentialError(str(error)) from error
        return credentials

    def read(self) -> tuple[str] | tuple[str, str]:
        """Return the password, or the user and the password.

        Raises:
            ConfigError: The file cannot be read, or is not one of credentials.
        """
        lines = [line.strip() for line in self._read_text().strip().split("\n")]
        if not all(lines):
            raise ConfigError(f"the credentials file {self._path} has an empty line: {_FORM}")
        match lines:
            case [password]:
                return (self._username, password) if self._username else (password,)
            case [username, password]:
                return username, password
        raise ConfigError(f"the credentials file {self._path} has {len(lines)} lines: {_FORM}")

    def _read_text(self) -> str:
        try:
            # Opening a pipe would wait for its writer.
            if self._path.exists() and not self._path.is_file():
                raise ConfigError(f"the credentials file {self._path} is not a file: {_FORM}")
            with self._path.open("rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
            text = content.decode("utf-8-sig")
        except OSError as error:
            raise ConfigError(
                f"the credentials file {self._path} cannot be read: {error.strerror}"
            ) from error
        except UnicodeDecodeError:
            raise ConfigError(f"the credentials file {self._path} is not in UTF-8") from None
        if len(content) > MAX_FILE_BYTES:
            raise ConfigError(
                f"the credentials file {self._path} has more than {MAX_FILE_BYTES} bytes: {_FORM}"
            )
        if not text.strip():
            raise ConfigError(f"the credentials file {self._path} is empty: {_FORM}")
        return text


class _CheckedProvider(_BlockingReader):
    """Provider from code, whose failures fail a connection and no more.

    Args:
        provider: The provider.
    """

    def __init__(self, provider: CredentialProvider) -> None:
        super().__init__()
        self._provider = provider
        # The method of the base class calls the other one, which may block the event loop.
        self._is_async = (
            type(provider).get_credentials_async is not CredentialProvider.get_credentials_async
        )

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        try:
            credentials: Any = (
                await self._provider.get_credentials_async()
                if self._is_async
                else await self._in_thread(self._provider.get_credentials)
            )
        except Exception as error:
            raise CredentialError(
                f"the credential provider failed: {type(error).__name__}: {error}"
            ) from error
        if not _are_credentials(credentials):
            raise CredentialError(
                f"the credential provider returned a {type(credentials).__name__} in place of "
                "(password,) or (username, password)"
            )
        return tuple(credentials)


def _are_credentials(value: object) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and len(value) in {1, 2}
        and all(isinstance(each, str) for each in value)
    )
