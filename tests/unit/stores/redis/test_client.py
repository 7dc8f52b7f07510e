"""Factory of redis-py clients: short timeouts and no retries."""

import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import redis.asyncio
from redis.asyncio.connection import SSLConnection
from redis.asyncio.sentinel import SentinelConnectionPool

import fleetlimit
from fleetlimit.errors import ConfigError
from fleetlimit.stores.redis.client import Timeouts, create_client, redacted_url
from fleetlimit.stores.redis.credentials import Credentials
from support.certificates import CertificateAuthority

TIMEOUTS = Timeouts(connect=0.5, operation=0.125)


def options(url: str, **credentials: Any) -> dict[str, Any]:
    """Return the connection options of the client for a URL."""
    client = create_client(url, TIMEOUTS, Credentials(**credentials))
    if isinstance(client, redis.asyncio.RedisCluster):
        (node,) = client.nodes_manager.startup_nodes.values()
        endpoint = {"host": node.host, "port": node.port, "retry": client.retry}
        return {**node.connection_kwargs, **endpoint}
    pool = client.connection_pool
    return {**pool.connection_kwargs, "class": pool.connection_class.__name__}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://store", {"host": "store", "class": "Connection"}),
        ("redis://store:7000/2", {"host": "store", "port": 7000, "db": 2}),
        ("redis://ann:p%2Fw@store", {"username": "ann", "password": "p/w"}),
        ("redis://:pw@store?client_name=me", {"password": "pw", "client_name": "me"}),
        ("redis://[::1]:7000", {"host": "::1", "port": 7000}),
        ("rediss://store", {"host": "store", "class": "SSLConnection"}),
        ("rediss://store?ssl_cert_reqs=none", {"ssl_cert_reqs": "none"}),
        ("redis+cluster://:pw@store:7000", {"host": "store", "port": 7000, "password": "pw"}),
        ("rediss+cluster://store", {"host": "store", "port": 6379}),
    ],
)
def test_url_options_reach_the_client(url: str, expected: dict[str, Any]) -> None:
    """Host, port, database, credentials, TLS and further options come from the URL."""
    assert expected.items() <= options(url).items()


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_cluster_url_has_several_nodes(scheme: str) -> None:
    """A Cluster may have several addresses, each with its port, as Sentinel has."""
    url = f"{scheme}+cluster://ann:p%40w@one,two:7000,[::1]:7001/0?client_name=me"
    client = create_client(url, TIMEOUTS)
    assert isinstance(client, redis.asyncio.RedisCluster)
    nodes = list(client.nodes_manager.startup_nodes.values())
    assert [(node.host, node.port) for node in nodes] == [
        ("one", 6379),
        ("two", 7000),
        ("::1", 7001),
    ]
    for node in nodes:
        assert issubclass(node.connection_class, SSLConnection) is (scheme == "rediss")
        expected = {"username": "ann", "password": "p@w", "client_name": "me"}
        assert expected.items() <= node.connection_kwargs.items()


URLS = ["redis://ann:pw@store", "redis+cluster://ann:pw@store", "redis+sentinel://ann:pw@store/s"]


@pytest.mark.parametrize("url", URLS)
def test_credentials_override_the_url(url: str) -> None:
    """A user and a password, for example from a file, override the URL's."""
    found = options(url, username="bob", password="other")  # noqa: S106 - an example
    assert (found["username"], found["password"]) == ("bob", "other")


@pytest.mark.parametrize("url", URLS)
def test_password_alone_keeps_the_user(url: str) -> None:
    """A password alone keeps the URL's user, and a user alone the URL's password."""
    found = options(url, password="other")  # noqa: S106 - an example
    assert (found["username"], found["password"]) == ("ann", "other")
    found = options(url, username="bob")
    assert (found["username"], found["password"]) == ("bob", "pw")


@pytest.mark.parametrize("url", ["redis://store", "redis+cluster://store", "redis+sentinel://h/s"])
def test_client_has_short_timeouts_and_no_retries(url: str) -> None:
    """A check that is sent twice is spent twice, so no client retries."""
    found = options(url)
    assert found["socket_connect_timeout"] == 0.5
    assert found["socket_timeout"] == 0.625
    assert found["retry"].get_retries() == 0


def test_sentinel_url_has_sentinels_and_service() -> None:
    """Every sentinel has its port, and the service its name."""
    url = "redis+sentinel://ann:p%40w@one,two:27000,[::1]:27001/main/3"
    client = create_client(url, TIMEOUTS)
    assert isinstance(client, redis.asyncio.Redis)
    pool = client.connection_pool
    assert isinstance(pool, SentinelConnectionPool)
    asked = [each.connection_pool.connection_kwargs for each in pool.sentinel_manager.sentinels]
    assert [(each["host"], each["port"]) for each in asked] == [
        ("one", 26379),
        ("two", 27000),
        ("::1", 27001),
    ]
    assert all(each["socket_timeout"] == 0.625 for each in asked)
    # With retries, a search would end at its time limit before it asks the next sentinel.
    assert all(each["retry"].get_retries() == 0 for each in asked)
    assert all(each.get("password") is None for each in asked)
    assert pool.service_name == "main"
    found = options(url)
    assert (found["db"], found["username"], found["password"]) == (3, "ann", "p@w")


def test_sentinels_have_tls_options_and_their_own_credentials() -> None:
    """TLS applies to sentinels and service; each has its own user and password."""
    url = "rediss+sentinel://ann:pw@one/main?ssl_cert_reqs=none&sentinel_password=other"
    client = create_client(url, TIMEOUTS)
    assert isinstance(client, redis.asyncio.Redis)
    pool = client.connection_pool
    assert isinstance(pool, SentinelConnectionPool)
    asked = [each.connection_pool for each in pool.sentinel_manager.sentinels]
    assert [issubclass(each.connection_class, SSLConnection) for each in asked] == [True]
    assert asked[0].connection_kwargs["password"] == "other"  # noqa: S105 - an example
    assert issubclass(pool.connection_class, SSLConnection)
    found = options(url)
    assert (found["username"], found["password"]) == ("ann", "pw")
    assert found["ssl_cert_reqs"] == "none"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "is not a store: write memory://, redis://host"),
        ("store:6379", "is not a store"),
        ("http://store", "'http://store' is not a store"),
        ("redis://store:x", "cannot be used"),
        ("redis://store:99999", "cannot be used"),
        ("redis://store?no_such_option=1", "cannot be used.*no_such_option"),
        ("rediss://store?ssl_cert_reqs=maybe", "cannot be used"),
        ("redis+cluster://", "names no host: write redis[+]cluster://host:6379,host:6379"),
        ("redis+cluster://one,,two", "write redis[+]cluster://host:6379,host:6379"),
        ("redis+cluster://one, two", "write redis[+]cluster://host:6379,host:6379"),
        ("redis+cluster://one,:7000", "write redis[+]cluster://host:6379,host:6379"),
        ("redis+cluster://one:7000,two:x", "cannot be used"),
        ("redis+cluster://one/1", "cannot be used.*db"),
        ("redis+cluster://a:pw@one,a:pw@two", "several '@': write the user and the password once"),
        ("redis+sentinel://a:pw@one,a:pw@two/s", "several '@'"),
        ("redis://one:6379,two:6379", "several hosts: write redis[+]cluster://host:6379,host:6379"),
        ("rediss://one,two/0", "or rediss[+]sentinel://host:26379,host:26379/service-name"),
        ("redis://", "names no host: write redis://host:6379"),
        ("redis:/localhost", "names no host"),
        ("rediss://user:secret@/0", "names no host: write rediss://host:6379"),
        ("redis://store/zero", "names the database 'zero', which is no number: write redis://"),
        ("redis://store/0/1", "names the database '0/1'"),
        ("redis://store?decode_responses=true", "cannot have the option decode_responses"),
        ("redis+cluster://store?decode_responses=1", "cannot have the option decode_responses"),
        ("redis://store?retry_on_timeout=true", "cannot have the option retry_on_timeout"),
        ("redis://store?socket_keepalive=nope", "socket_keepalive=nope: write true or false"),
        ("redis+cluster://store?require_full_coverage=2", "require_full_coverage=2: write true or"),
        ("redis://store?health_check_interval=on", "cannot be used: .*health_check_interval"),
        ("rediss://store?ssl_cert_reqs=no", "cannot be used: .*no"),
        ("redis+cluster://store?no_such_option=1", "cannot be used.*no_such_option"),
        ("redis+sentinel://host", "write redis[+]sentinel://host:26379"),
        ("redis+sentinel:///service", "write redis[+]sentinel://host:26379"),
        ("redis+sentinel://host,:1/service", "write redis[+]sentinel://host:26379"),
        ("redis+sentinel://host:x/service", "cannot be used"),
        ("redis+sentinel://host/service/x", "cannot be used"),
        ("redis://[::1", "cannot be used"),
    ],
)
def test_invalid_url_fails_at_construction(url: str, message: str) -> None:
    """An invalid URL is a `ConfigError` at once, and not a store error later."""
    with pytest.raises(ConfigError, match=message):
        create_client(url, TIMEOUTS)


@pytest.mark.parametrize("kind", ["rediss://host", "rediss+cluster://host"])
@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("false", False), ("False", False), ("no", False), ("off", False), ("0", False)),
        *(("true", True), ("on", True), ("1", True)),
    ],
)
@pytest.mark.parametrize("option", ["socket_keepalive", "ssl_check_hostname"])
def test_options_can_be_switched_off(
    kind: str,
    option: str,
    text: str,
    value: bool,  # noqa: FBT001 - a case
) -> None:
    """`false` is false for the options, too, that redis-py does not convert."""
    url = f"{kind}?ssl_cert_reqs=none&{option}={text}"
    assert options(url)[option] is value


@pytest.mark.parametrize("text", ["true", "on", "no", "1"])
@pytest.mark.parametrize(
    "kind", ["redis://host", "redis+cluster://host", "redis+sentinel://host/service"]
)
def test_text_options_stay_text(kind: str, text: str) -> None:
    """A word such as `true` is the value of an option that is no switch."""
    assert options(f"{kind}?client_name={text}")["client_name"] == text
    assert options(f"{kind}?username={text}")["username"] == text


@pytest.mark.parametrize("text", ["true", "on", "no", "1"])
def test_password_of_sentinels_stays_text(text: str) -> None:
    """Such a word is the password of the sentinels."""
    client = create_client(f"redis+sentinel://one/main?sentinel_password={text}", TIMEOUTS)
    assert isinstance(client, redis.asyncio.Redis)
    pool = client.connection_pool
    assert isinstance(pool, SentinelConnectionPool)
    (sentinel,) = pool.sentinel_manager.sentinels
    assert sentinel.connection_pool.connection_kwargs["password"] == text


@pytest.mark.parametrize(("text", "value"), [("false", False), ("0", False), ("on", True)])
def test_options_of_a_cluster_can_be_switched_off(
    text: str,
    value: bool,  # noqa: FBT001 - a case
) -> None:
    """redis-py would take the text `false` for true."""
    client = create_client(f"redis+cluster://host?require_full_coverage={text}", TIMEOUTS)
    assert isinstance(client, redis.asyncio.RedisCluster)
    assert client.nodes_manager.require_full_coverage is value


def test_tls_files_reach_the_client(tmp_path: Path) -> None:
    """A CA, a client certificate and its key are loaded, and passed to redis-py."""
    authority = CertificateAuthority("store's")
    pem = dict(zip(("tls.crt", "tls.key"), authority.issue("client"), strict=True))
    for name, text in {"ca.crt": authority.certificate, **pem}.items():
        (tmp_path / name).write_text(text)
    given = {
        "ssl_ca_certs": str(tmp_path / "ca.crt"),
        "ssl_certfile": str(tmp_path / "tls.crt"),
        "ssl_keyfile": str(tmp_path / "tls.key"),
    }
    assert given.items() <= options(f"rediss://store?{urlencode(given)}").items()


@pytest.mark.parametrize("kind", ["rediss", "rediss+cluster", "rediss+sentinel"])
@pytest.mark.parametrize("option", ["ssl_ca_certs", "ssl_certfile"])
@pytest.mark.parametrize(("content", "message"), [(None, "No such file"), ("no PEM", "_ssl")])
def test_invalid_tls_file_fails_at_construction(
    tmp_path: Path, kind: str, option: str, content: str | None, message: str
) -> None:
    """A missing CA or certificate is an error at once, and not at the first connection."""
    file = tmp_path / "given.crt"
    if content is not None:
        file.write_text(content)
    path = "service" if "sentinel" in kind else ""
    with pytest.raises(ConfigError, match=f"{option}={file}.*{message}"):
        create_client(f"{kind}://store/{path}?{option}={file}", TIMEOUTS)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://ann:s3cret@store:7000/2?password=s3cret", "redis://store:7000/2"),
        ("redis://:s3cret@store", "redis://store"),
        ("redis+sentinel://ann:s3cret@one,two/main", "redis+sentinel://one,two/main"),
        ("redis://ann:s3@cret@store", "redis://store"),
        ("redis://store#s3cret", "redis://store"),
        ("redis://:s3cret@", "redis://"),
        ("unix:///tmp/redis.sock?db=1", "unix:///tmp/redis.sock"),
        ("store:6379", "store:6379"),
        ("s3", "s3"),
    ],
)
def test_redacted_url_hides_credentials(url: str, expected: str) -> None:
    """The redacted URL has neither user, password nor options."""
    assert redacted_url(url) == expected


@pytest.mark.parametrize("sign", ["/", "?", "#"])
def test_unencoded_password_is_not_in_the_message(sign: str) -> None:
    """A password with a URL delimiter is in no message."""
    url = f"redis://ann:s3{sign}cret@store"
    for use in (redacted_url, lambda url: create_client(url, TIMEOUTS)):
        with pytest.raises(ConfigError, match="percent-encode") as caught:
            use(url)
        assert "s3" not in str(caught.value)
        assert "cret" not in str(caught.value)


@pytest.mark.parametrize(("seconds", "operation"), [(0, 1), (1, 0), (-1, 1), (1, -1)])
def test_timeout_of_0_is_rejected(seconds: float, operation: float) -> None:
    """With a timeout of 0 no call could succeed."""
    with pytest.raises(ConfigError, match="above 0 seconds"):
        Timeouts(seconds, operation)


def test_store_needs_only_the_opentelemetry_api() -> None:
    """The Redis store is imported without the OpenTelemetry SDK."""
    package = Path(fleetlimit.__file__).parent
    code = (
        "import sys, types\n"
        "package = sys.modules['fleetlimit'] = types.ModuleType('fleetlimit')\n"
        f"package.__path__ = [{str(package)!r}]\n"
        "sys.modules['opentelemetry.sdk'] = None\n"
        "import fleetlimit.stores.redis.store"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
