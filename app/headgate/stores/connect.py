"""From a store's URL to a client of redis-py: standalone, TLS, Cluster or Sentinel."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from headgate.core.errors import ConfigError

Client = redis.asyncio.Redis | redis.asyncio.RedisCluster
SCHEMES = ("memory", "redis", "rediss", "redis+cluster", "rediss+cluster", "redis+sentinel")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long to wait for the store, in seconds.

    Args:
        connect: For a connection; also for each step of a probe.
        operation: For an answer, once connected.
    """

    connect: float = 0.25
    operation: float = 0.05

    def __post_init__(self) -> None:
        if self.connect <= 0 or self.operation <= 0:
            raise ConfigError("store timeouts must be above 0 seconds")


def location(url: str) -> str:
    """Return the URL for people: without user, password and options."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def connect(
    url: str, timeouts: Timeouts, *, username: str | None = None, password: str | None = None
) -> Client:
    """Build a client that does not retry by itself: a check that is sent twice is spent twice.

    Args:
        url: `redis://`, `rediss://` (TLS), `redis+cluster://`, `rediss+cluster://` or
            `redis+sentinel://host:port,host:port/service[/db]`, with redis-py's options as a query.
        timeouts: How long to wait.
        username: ACL user, in place of the URL's.
        password: Password, in place of the URL's, so that it can come from a file.

    Raises:
        ConfigError: The URL cannot be used.
    """
    options: dict[str, Any] = {
        "socket_connect_timeout": timeouts.connect,
        # The operation timeout is kept by the lane. This one, above it, is for what the driver
        # says by itself while it connects: a handshake may take as long as a connection.
        "socket_timeout": timeouts.connect + timeouts.operation,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
    }
    if username:
        options["username"] = username
    if password:
        options["password"] = password
    build: dict[str, Callable[[str, dict[str, Any]], Client]] = {
        "redis": _standalone,
        "rediss": _standalone,
        "redis+cluster": _cluster,
        "rediss+cluster": _cluster,
        "redis+sentinel": _sentinel,
    }
    scheme = urlsplit(url).scheme
    if scheme not in build:
        raise ConfigError(
            f"{location(url)!r} is not a store: write memory://, redis://host:6379/0, rediss://, "
            "redis+cluster:// or redis+sentinel://host:26379/service"
        )
    try:
        return build[scheme](url, options)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"the store URL {location(url)} cannot be used: {error}") from error


def _standalone(url: str, options: dict[str, Any]) -> Client:
    return redis.asyncio.Redis.from_url(url, **options)


def _cluster(url: str, options: dict[str, Any]) -> Client:
    return redis.asyncio.RedisCluster.from_url(url.replace("+cluster", "", 1), **options)


def _sentinel(url: str, options: dict[str, Any]) -> Client:
    parts = urlsplit(url)
    user, _, hosts = parts.netloc.rpartition("@")
    service, _, database = parts.path.strip("/").partition("/")
    if not service or not hosts:
        raise ConfigError("write redis+sentinel://host:26379,host:26379/service-name")
    if database:
        options["db"] = int(database)
    name, _, password = user.partition(":")
    if name:
        options.setdefault("username", unquote(name))
    if password:
        options.setdefault("password", unquote(password))
    sentinels = []
    for host in hosts.split(","):
        address, colon, port = host.rpartition(":")
        sentinels.append((address, int(port)) if colon else (host, 26379))
    timeout = {key: options[key] for key in ("socket_connect_timeout", "socket_timeout")}
    found = redis.asyncio.Sentinel(  # type: ignore[no-untyped-call]  # redis-py has no types here
        sentinels, sentinel_kwargs=timeout, **options
    )
    client: redis.asyncio.Redis = found.master_for(service)
    return client
