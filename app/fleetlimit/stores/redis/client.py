"""Factory of redis-py clients from a store URL: standalone, TLS, Cluster or Sentinel."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit, urlunsplit

import redis.asyncio
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import URL_QUERY_ARGUMENT_PARSERS, parse_url, to_bool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError

from fleetlimit.errors import ConfigError
from fleetlimit.stores.redis.credentials import Credentials

_SENTINEL_OPTION_PREFIXES = ("socket_", "ssl", "retry")


class _Sentinel(redis.asyncio.Redis):
    """Sentinel whose `repr` has its address and last error.

    redis-py reports failed Sentinels only by `repr()`.
    """

    _failure = ""

    async def sentinel_masters(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().sentinel_masters(*args, **options)
        except RedisError as error:
            self._failure = str(error)
            raise

    def __repr__(self) -> str:
        kwargs = self.connection_pool.connection_kwargs
        return f"sentinel {kwargs['host']}:{kwargs['port']}: {self._failure}"


class _Sentinels(redis.asyncio.Sentinel):
    """Sentinels that are asked in another order after a search that failed.

    redis-py asks them one after the other. With several that do not reply, the time limit of the
    search ends before the first one that does.
    """

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        try:
            address: tuple[str, int] = await super().discover_master(service_name)
        except BaseException:
            self.sentinels.append(self.sentinels.pop(0))
            raise
        return address


class _SentinelPrimary(redis.asyncio.Redis):
    """Client of the primary behind Sentinel; closes the connections to the sentinels too."""

    async def aclose(self, *args: Any, **options: Any) -> None:
        await super().aclose(*args, **options)
        for each in self.connection_pool.sentinel_manager.sentinels:  # type: ignore[attr-defined]  # a SentinelConnectionPool
            await each.aclose()


def _form(parts: SplitResult) -> str:
    """Return an example of a store URL with this scheme."""
    if "sentinel" in parts.scheme:
        return f"{parts.scheme}://host:26379,host:26379/service-name"
    if "cluster" in parts.scheme:
        return f"{parts.scheme}://host:6379,host:6379"
    return f"{parts.scheme}://host:6379/0"


def _addresses(parts: SplitResult, *, default_port: int) -> list[tuple[str, int]]:
    """Return the host and the port of each server that a URL without credentials names.

    Raises:
        ConfigError: A server has no host.
        ValueError: A port is no number up to 65,535.
    """
    servers = [urlsplit(f"//{server}") for server in parts.netloc.split(",")]
    addresses = [(each.hostname, each.port or default_port) for each in servers]
    if any(not host or " " in host for host, _ in addresses):
        raise ConfigError(f"write {_form(parts)}")
    return [(host, port) for host, port in addresses if host]


def sentinel_client(url: str, options: dict[str, Any]) -> redis.asyncio.Redis:
    """Return a client of the primary behind Sentinel.

    Args:
        url: `redis+sentinel://host:port,host:port/service[/db]` or `rediss+sentinel://`, without
            credentials.
        options: redis-py's options for connections to the primary; the socket and TLS options
            and the retries also apply to the sentinels.

    Raises:
        ConfigError: The URL names no sentinel or no service.
    """
    parts = urlsplit(url)
    service, _, database = parts.path.strip("/").partition("/")
    sentinels = _addresses(parts, default_port=26379)
    if not service:
        raise ConfigError(f"write {_form(parts)}")
    if database:
        options["db"] = int(database)
    if parts.scheme == "rediss+sentinel":
        options["ssl"] = True
    query: dict[str, Any] = {**parse_url(f"redis://host/?{parts.query}")}
    del query["host"]
    credentials = {key: query.pop(f"sentinel_{key}", None) for key in ("username", "password")}
    options |= query
    shared = {
        key: value for key, value in options.items() if key.startswith(_SENTINEL_OPTION_PREFIXES)
    }
    kwargs = {**shared, **{key: value for key, value in credentials.items() if value}}
    manager = _Sentinels([], **options)  # type: ignore[no-untyped-call]  # redis-py has no types here
    manager.sentinels = [_Sentinel(host=host, port=port, **kwargs) for host, port in sentinels]
    client: redis.asyncio.Redis = manager.master_for(service, redis_class=_SentinelPrimary)
    return client


Client = redis.asyncio.Redis | redis.asyncio.RedisCluster

_TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_MAINT_NOTIFICATIONS = "maint_notifications_config"
# redis-py's maintenance notifications make the pool hand out connections that the server has
# closed, which fails a check each time; disable them.
_MAINT_NOTIFICATIONS_OFF: dict[str, Any] = (
    {
        _MAINT_NOTIFICATIONS: import_module("redis.maint_notifications").MaintNotificationsConfig(
            enabled=False
        )
    }
    if _MAINT_NOTIFICATIONS in signature(redis.asyncio.ConnectionPool).parameters
    else {}
)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Timeouts of store calls, in seconds.

    Args:
        connect: Limit for opening a connection. Also the limit of calls that no request waits for:
            a reset, the search for a Cluster's nodes, reports of the audit.
        operation: Limit for a reply on an open connection.
    """

    connect: float = 0.25
    operation: float = 0.05

    def __post_init__(self) -> None:
        if self.connect <= 0 or self.operation <= 0:
            raise ConfigError("store timeouts must be above 0 seconds")

    @property
    def opening(self) -> float:
        """Limit for opening a connection with its handshake, in seconds."""
        return 2 * self.connect + self.operation


def redacted_url(url: str) -> str:
    """Return the URL without user, password and options, for logs and messages.

    Raises:
        ConfigError: The end of the password cannot be determined.
    """
    parts = _split(url)
    # `urlunsplit` would leave out the `//` before an empty host.
    has_host = parts.netloc or url.partition(":")[2].startswith("//")
    scheme = f"{parts.scheme}:" if parts.scheme else ""
    return f"{scheme}{'//' if has_host else ''}{parts.netloc.rpartition('@')[2]}{parts.path}"


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigError(f"the store URL cannot be used: {error}") from error
    if "@" in parts.path + parts.query + parts.fragment:
        raise ConfigError(
            "the store URL cannot be used: percent-encode '/', '?', '#' and '@' in its user, "
            "password and options"
        )
    return parts


def create_client(url: str, timeouts: Timeouts, credentials: Credentials | None = None) -> Client:
    """Return a client that never retries: a check that is sent twice is spent twice.

    Args:
        url: `redis://`, `rediss://` (TLS), `redis+cluster://host:port,host:port`,
            `rediss+cluster://`, `redis+sentinel://host:port,host:port/service[/db]` or
            `rediss+sentinel://`, with redis-py's options as a query; `sentinel_username` and
            `sentinel_password` are the credentials for the sentinels.
        timeouts: Timeouts of the client.
        credentials: Credentials apart from the URL's.

    Raises:
        ConfigError: The URL is invalid, or the credentials are given twice.
    """
    options: dict[str, Any] = {
        "socket_connect_timeout": timeouts.connect,
        # The batcher enforces the operation timeout. This one, above it, is for commands of the
        # driver's handshake, which may take as long as the connection itself.
        "socket_timeout": timeouts.connect + timeouts.operation,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
    }
    parts = _split(url)
    user, _, hosts = parts.netloc.rpartition("@")
    name, _, secret = user.partition(":")
    # Removed from the URL, because credentials in the URL would override the options.
    options |= (credentials or Credentials()).options(unquote(name), unquote(secret))
    build: dict[str, Callable[[str, dict[str, Any]], Client]] = {
        "redis": _standalone,
        "rediss": _standalone,
        "redis+cluster": _cluster,
        "rediss+cluster": _cluster,
        "redis+sentinel": sentinel_client,
        "rediss+sentinel": sentinel_client,
    }
    if parts.scheme not in build:
        raise ConfigError(
            f"{redacted_url(url)!r} is not a store: write memory://, redis://host:6379/0, "
            "rediss://, redis+cluster:// or redis+sentinel://host:26379/service"
        )
    _check_address(parts, url)
    _check_tls_files(url, parts.query)
    query, switches = _take_switches(parts.query)
    options |= switches
    parts = parts._replace(query=query)
    try:
        return build[parts.scheme](urlunsplit(parts._replace(netloc=hosts)), options)
    except (ValueError, TypeError, RedisError, RedisClusterException) as error:
        raise ConfigError(f"the store URL {redacted_url(url)} cannot be used: {error}") from error


def _check_address(parts: SplitResult, url: str) -> None:
    """Check that redis-py would not choose the host or the database in silence.

    Raises:
        ConfigError: There is no host, or several for one server; the path is no number of a
            database; or the user and the password stand before each of several hosts.
    """
    user, _, hosts = parts.netloc.rpartition("@")
    form = f"write {_form(parts)}"
    if "+" in parts.scheme and "@" in user:
        raise ConfigError(
            f"the store URL {redacted_url(url)} has several '@': write the user and the password "
            "once, before the first host, and percent-encode '@' in them"
        )
    if "sentinel" in parts.scheme:
        return
    if not hosts:
        raise ConfigError(f"the store URL {redacted_url(url)} names no host: {form}")
    if "," in hosts and "+" not in parts.scheme:
        raise ConfigError(
            f"the store URL {redacted_url(url)} names several hosts: write "
            f"{parts.scheme}+cluster://host:6379,host:6379 for a Cluster, or "
            f"{parts.scheme}+sentinel://host:26379,host:26379/service-name for Sentinel"
        )
    database = parts.path.strip("/")
    if database and not database.isdecimal():
        raise ConfigError(
            f"the store URL {redacted_url(url)} names the database {database!r}, which is no "
            f"number: {form}"
        )


_SWITCHES: Final = frozenset(
    {
        *(name for name, parse in URL_QUERY_ARGUMENT_PARSERS.items() if parse is to_bool),
        # redis-py's table lacks most of its switches.
        *(
            name
            for client in (redis.asyncio.Redis, redis.asyncio.RedisCluster)
            for name, parameter in signature(client).parameters.items()
            if isinstance(parameter.default, bool)
        ),
        # Of the connections behind Sentinel.
        "check_connection",
    }
)
"""Options of redis-py that are true or false."""
_TRUE: Final = frozenset({"true", "t", "yes", "y", "on", "1"})
_FALSE: Final = frozenset({"false", "f", "no", "n", "off", "0"})
_REJECTED_OPTIONS: Final = {
    "decode_responses": "replies of the store are read as bytes",
    "retry_on_timeout": "a check that is sent twice is spent twice",
}


def _take_switches(query: str) -> tuple[str, dict[str, bool]]:
    """Return the query without the options that are true or false, and their values.

    redis-py converts only some of these options. It takes the text of the others, and so `false`
    for true.

    Raises:
        ConfigError: An option cannot be set, or is neither true nor false.
    """
    kept, switches = [], {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _SWITCHES:
            kept.append((name, value))
            continue
        word = value.lower()
        if word not in _TRUE | _FALSE:
            raise ConfigError(f"the store URL has the option {name}={value}: write true or false")
        if name in _REJECTED_OPTIONS and word in _TRUE:
            raise ConfigError(
                f"the store URL cannot have the option {name}, because {_REJECTED_OPTIONS[name]}: "
                "leave it out"
            )
        switches[name] = word in _TRUE
    return urlencode(kept), switches


def _standalone(url: str, options: dict[str, Any]) -> Client:
    client = redis.asyncio.Redis.from_url(url, **options, **_MAINT_NOTIFICATIONS_OFF)
    # redis-py validates its options when it makes a connection; do that now.
    client.connection_pool.make_connection()  # type: ignore[no-untyped-call]  # untyped driver
    return client


def _cluster(url: str, options: dict[str, Any]) -> Client:
    parts = urlsplit(url)
    query: dict[str, Any] = {**parse_url(f"redis://host{parts.path}?{parts.query}")}
    del query["host"]
    if parts.scheme == "rediss+cluster":
        options["ssl"] = True
    seeds = [ClusterNode(host, port) for host, port in _addresses(parts, default_port=6379)]
    # Slots without a primary fail alone: the shards of the other slots are used.
    arguments = {"require_full_coverage": False, **options, **query}
    return redis.asyncio.RedisCluster(startup_nodes=seeds, **arguments)


async def close_idle(owner: redis.asyncio.ConnectionPool | ClusterNode) -> None:
    """Close the connections of a pool, or of a node of a Cluster, that no command uses.

    The `disconnect` of both waits until each connection has ended, while commands are given the
    connections and fail, and that of a node closes those in use, too. Without that wait no other
    task runs before all are closed, and redis-py opens them again for the next commands.
    """
    # redis-py has no other access to them.
    idle = owner._free if isinstance(owner, ClusterNode) else owner._available_connections  # noqa: SLF001
    for connection in [*idle]:
        await connection.disconnect(nowait=True)


def _check_tls_files(url: str, query: str) -> None:
    """Load the TLS files now; redis-py would load them at the first connection."""
    options = dict(parse_qsl(query))
    named = {key: options[key] for key in _TLS_FILES if key in options}
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if "ssl_ca_certs" in named:
            context.load_verify_locations(named["ssl_ca_certs"])
        if "ssl_certfile" in named:
            # Without any password, OpenSSL would prompt for one on the terminal.
            password = options.get("ssl_password", "")
            context.load_cert_chain(named["ssl_certfile"], named.get("ssl_keyfile"), password)
    except OSError as error:
        files = " ".join(f"{key}={file}" for key, file in named.items())
        raise ConfigError(
            f"the store URL {redacted_url(url)} names {files}, which cannot be used: {error}"
        ) from error
