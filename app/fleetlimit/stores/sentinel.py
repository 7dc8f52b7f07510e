"""A client of whoever the sentinels name as the primary."""

from typing import Any
from urllib.parse import urlsplit

import redis.asyncio
from redis.asyncio.connection import parse_url
from redis.exceptions import RedisError

from fleetlimit.core.errors import ConfigError

_FOR_SENTINELS = ("socket_", "ssl")


class _Asked(redis.asyncio.Redis):
    """A sentinel.

    Where no sentinel names a primary, the driver tells only what they look like: this one looks
    like its address and what became of the question.
    """

    _failure = ""

    async def sentinel_masters(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().sentinel_masters(*args, **options)
        except RedisError as error:
            self._failure = str(error)
            raise

    def __repr__(self) -> str:
        found = self.connection_pool.connection_kwargs
        return f"sentinel {found['host']}:{found['port']}: {self._failure}"


class _Primary(redis.asyncio.Redis):
    """Whoever the sentinels name; takes the connections to them along when it is closed."""

    async def aclose(self, *args: Any, **options: Any) -> None:
        await super().aclose(*args, **options)
        for each in self.connection_pool.sentinel_manager.sentinels:  # type: ignore[attr-defined]  # of its own kind of pool
            await each.aclose()


def primary(url: str, options: dict[str, Any]) -> redis.asyncio.Redis:
    """Build a client of the primary.

    Args:
        url: `redis+sentinel://host:port,host:port/service[/db]` or `rediss+sentinel://`, without
            credentials.
        options: Of the driver, for connections to the primary; those of sockets and TLS are for the
            sentinels, too.

    Raises:
        ConfigError: The URL names no sentinel or no service.
    """
    parts = urlsplit(url)
    service, _, database = parts.path.strip("/").partition("/")
    found = [urlsplit(f"//{host}") for host in parts.netloc.split(",")]
    sentinels = [(each.hostname, each.port or 26379) for each in found if each.hostname]
    if not service or len(sentinels) < len(found):
        raise ConfigError("write redis+sentinel://host:26379,host:26379/service-name")
    if database:
        options["db"] = int(database)
    if parts.scheme == "rediss+sentinel":
        options["ssl"] = True
    query: dict[str, Any] = {**parse_url(f"redis://host/?{parts.query}")}
    del query["host"]
    own = {key: query.pop(f"sentinel_{key}", None) for key in ("username", "password")}
    options |= query
    shared = {key: value for key, value in options.items() if key.startswith(_FOR_SENTINELS)}
    asked = {**shared, **{key: value for key, value in own.items() if value}}
    manager = redis.asyncio.Sentinel([], **options)  # type: ignore[no-untyped-call]  # redis-py has no types here
    manager.sentinels = [_Asked(host=host, port=port, **asked) for host, port in sentinels]
    client: redis.asyncio.Redis = manager.master_for(service, redis_class=_Primary)
    return client
