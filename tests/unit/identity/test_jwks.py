"""JwksUrl and JwksFile: fetches are rare and shared, and the last good keys stay in use."""

import contextvars
import threading
from contextvars import ContextVar
from pathlib import Path

import anyio
import pytest

from fleetlimit.errors import ConfigError, IdentityError
from fleetlimit.identity.jwks import (
    MAX_DOCUMENT_BYTES,
    JwksFile,
    JwksUrl,
    fetch_document,
    jwks_source,
)
from support.clock import ManualClock
from support.identity import jwks, jwks_server, rsa_jwk

URL = "https://issuer.example/jwks.json"


class Issuer:
    """Fake fetch that counts its calls, and waits for an event."""

    def __init__(self, *documents: bytes | Exception) -> None:
        self.documents = list(documents)
        self.fetches = 0
        self.released = threading.Event()
        self.released.set()

    def __call__(self, url: str, timeout: float) -> bytes:
        """Return the next document."""
        assert (url, timeout) == (URL, 3.0)
        self.fetches += 1
        assert self.released.wait(10)
        document = self.documents.pop(0) if len(self.documents) > 1 else self.documents[0]
        if isinstance(document, Exception):
            raise document
        return document


async def reason(keys: JwksUrl | JwksFile, kid: str | None, algorithm: str = "RS256") -> str:
    """Return the reason why there is no such key, or an empty text if there is one."""
    try:
        await keys.find(kid, algorithm)
    except IdentityError as error:
        return error.reason
    return ""


async def refreshed(keys: JwksUrl) -> None:
    """Wait for the refresh in the background."""
    assert keys._refresh is not None
    await keys._refresh


async def test_keys_are_fetched_once() -> None:
    """The first request fetches the keys, later ones do not."""
    issuer = Issuer(jwks(rsa_jwk("one")))
    keys = JwksUrl(URL, fetch=issuer)
    assert await reason(keys, "one") == ""
    assert await reason(keys, "one") == ""
    assert issuer.fetches == 1


async def test_fetch_runs_in_an_empty_context() -> None:
    """A fetch serves all requests, so it does not belong to the trace of the first one."""
    requested = contextvars.ContextVar("requested", default="nothing")
    requested.set("a request")
    seen: list[str] = []

    def fetch(_url: str, _timeout: float) -> bytes:
        seen.append(requested.get())
        raise OSError("no server")

    assert await reason(JwksUrl(URL, fetch=fetch), "a") == "keys_unavailable"
    assert seen == ["nothing"]


async def test_requests_that_need_keys_share_one_fetch() -> None:
    """A hundred concurrent requests cause one fetch, and all get its key."""
    issuer = Issuer(jwks(rsa_jwk("one")))
    keys = JwksUrl(URL, fetch=issuer)
    issuer.released.clear()
    found: list[str] = []

    async def ask() -> None:
        found.append(await reason(keys, "one"))

    async with anyio.create_task_group() as tasks:
        for _ in range(100):
            tasks.start_soon(ask)
        await anyio.lowlevel.checkpoint()
        issuer.released.set()
    assert found == [""] * 100
    assert issuer.fetches == 1


async def test_cancelled_request_does_not_cancel_the_fetch() -> None:
    """Cancelling the request that started a fetch does not affect other requests."""
    issuer = Issuer(jwks(rsa_jwk("one")))
    keys = JwksUrl(URL, fetch=issuer)
    issuer.released.clear()
    with anyio.move_on_after(0):
        await keys.find("one", "RS256")
    issuer.released.set()
    assert await reason(keys, "one") == ""
    assert issuer.fetches == 1


async def test_slow_fetch_delays_a_request_by_the_timeout_at_most() -> None:
    """A request fails after the timeout; the fetch continues and serves later requests."""
    released = threading.Event()

    def fetch(_url: str, _timeout: float) -> bytes:
        assert released.wait(10)
        return jwks(rsa_jwk("one"))

    keys = JwksUrl(URL, fetch=fetch, timeout=0.01)
    assert await reason(keys, "one") == "keys_unavailable"
    released.set()
    await refreshed(keys)
    assert await reason(keys, "one") == ""


async def test_refresh_has_no_context_of_the_request_that_started_it() -> None:
    """A fetch, and what it logs, belongs to the trace of no request."""
    trace: ContextVar[str] = ContextVar("trace", default="")
    found: list[str] = []

    def fetch(_url: str, _timeout: float) -> bytes:
        found.append(trace.get())
        return jwks(rsa_jwk("one"))

    trace.set("request")
    assert await reason(JwksUrl(URL, fetch=fetch), "one") == ""
    assert found == [""]


async def test_unknown_kids_cause_one_fetch_in_an_interval() -> None:
    """A client that invents key ids cannot cause a fetch for each request."""
    clock = ManualClock()
    issuer = Issuer(jwks(rsa_jwk("one")))
    keys = JwksUrl(URL, fetch=issuer, clock=clock.seconds)
    for number in range(50):
        assert await reason(keys, f"made-up-{number}") == "unknown_key"
    assert issuer.fetches == 1
    clock.advance(10)
    for number in range(50):
        assert await reason(keys, f"made-up-{number}") == "unknown_key"
    assert issuer.fetches == 2


async def test_new_key_of_the_issuer_is_found() -> None:
    """A token signed with a key newer than the last fetch verifies after the interval."""
    clock = ManualClock()
    issuer = Issuer(jwks(rsa_jwk("one")), jwks(rsa_jwk("one"), rsa_jwk("two")))
    keys = JwksUrl(URL, fetch=issuer, clock=clock.seconds)
    assert await reason(keys, "one") == ""
    clock.advance(10)
    assert await reason(keys, "two") == ""


async def test_old_keys_are_refreshed_in_the_background() -> None:
    """Keys past their age still verify while a refresh runs."""
    clock = ManualClock()
    issuer = Issuer(jwks(rsa_jwk("one")), jwks(rsa_jwk("two")))
    keys = JwksUrl(URL, fetch=issuer, clock=clock.seconds)
    assert await reason(keys, "one") == ""
    clock.advance(300)
    assert await reason(keys, "one") == ""
    await refreshed(keys)
    assert await reason(keys, "one") == "unknown_key"
    assert await reason(keys, "two") == ""


@pytest.mark.parametrize("failure", [OSError("down"), RuntimeError("odd"), b"junk", jwks()])
async def test_failed_fetch_keeps_the_last_good_keys(
    failure: bytes | Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """A failed fetch is logged, and changes nothing."""
    clock = ManualClock()
    issuer = Issuer(jwks(rsa_jwk("one")), failure)
    keys = JwksUrl(URL, fetch=issuer, clock=clock.seconds)
    assert await reason(keys, "one") == ""
    clock.advance(300)
    assert await reason(keys, "one") == ""
    await refreshed(keys)
    assert await reason(keys, "one") == ""
    [record] = caplog.records
    assert record.name == "fleetlimit"
    assert record.message.startswith(f"identity.jwks_unavailable url={URL} error=")
    assert issuer.fetches == 2


async def test_unknown_key_is_unverified_while_the_issuer_is_unavailable() -> None:
    """A token of a new key is not invalid if the new keys cannot be fetched."""
    clock = ManualClock()
    issuer = Issuer(jwks(rsa_jwk("one")), OSError("down"), jwks(rsa_jwk("two")))
    keys = JwksUrl(URL, fetch=issuer, clock=clock.seconds)
    assert await reason(keys, "two") == "unknown_key"
    clock.advance(10)
    for waited, wait in ((0, 10), (3.5, 7), (6, 1)):
        clock.advance(waited)
        with pytest.raises(IdentityError) as caught:
            await keys.find("two", "RS256")
        assert (caught.value.reason, caught.value.retry_after) == ("keys_unavailable", wait)
    assert await reason(keys, "one") == ""
    clock.advance(0.5)
    assert await reason(keys, "two") == ""
    assert await reason(keys, "three") == "unknown_key"


async def test_unknown_key_is_unverified_while_a_fetch_is_slow() -> None:
    """A fetch that takes longer than the timeout may bring the key."""
    released, clock = threading.Event(), ManualClock()
    documents = [jwks(rsa_jwk("one"))]

    def fetch(_url: str, _timeout: float) -> bytes:
        if documents:
            return documents.pop()
        assert released.wait(10)
        return jwks(rsa_jwk("two"))

    keys = JwksUrl(URL, fetch=fetch, timeout=0.01, clock=clock.seconds)
    await reason(keys, "one")
    await refreshed(keys)
    assert await reason(keys, "one") == ""
    clock.advance(10)
    assert await reason(keys, "two") == "keys_unavailable"
    released.set()
    await refreshed(keys)
    assert await reason(keys, "two") == ""


async def test_reason_without_any_keys() -> None:
    """Until a first fetch succeeds no token verifies, and fetches respect their interval."""
    clock = ManualClock()
    issuer = Issuer(OSError("down"), jwks(rsa_jwk("one")))
    keys = JwksUrl(URL, fetch=issuer, clock=clock.seconds)
    assert await reason(keys, "one") == "keys_unavailable"
    assert await reason(keys, "one") == "keys_unavailable"
    assert issuer.fetches == 1
    clock.advance(10)
    assert await reason(keys, "one") == ""


async def test_fetch_reads_a_real_server() -> None:
    """The default fetch reads the document over HTTP."""
    with jwks_server(jwks(rsa_jwk("one"))) as server:
        keys = jwks_source(server.url)
        assert isinstance(keys, JwksUrl)
        assert await reason(keys, "one") == ""
        assert server.hits == 1


@pytest.mark.parametrize("status", [302, 404, 500])
def test_error_and_redirect_are_failures(status: int) -> None:
    """An error and a redirect are failures; a redirect is not followed."""
    with jwks_server(jwks(rsa_jwk("one"))) as server:
        server.status = status
        server.headers["Location"] = server.url
        with pytest.raises(OSError, match=str(status)):
            fetch_document(server.url, 3)
        assert server.hits == 1


def test_huge_document_is_rejected() -> None:
    """Not more than the bound is read."""
    document = b" " * (MAX_DOCUMENT_BYTES + 1)
    with jwks_server(document) as server, pytest.raises(ValueError, match="larger than"):
        fetch_document(server.url, 3)


def test_slow_document_times_out() -> None:
    """The whole body must arrive within the timeout."""
    clock = iter([0.0, 3.1])
    with jwks_server(b"{}") as server, pytest.raises(TimeoutError, match="in time"):
        fetch_document(server.url, 3, clock=lambda: next(clock))


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("http://issuer.example/jwks", "write an https:// URL"),
        ("http://10.0.0.1/jwks", "write an https:// URL"),
        ("ftp://issuer.example/jwks", "write an https:// URL"),
        ("https:///jwks", "write an https:// URL"),
        ("file:///etc/jwks.json", "without file://"),
        ("https://me:hunter2@issuer.example/jwks", "contains credentials"),
        ("https://issuer.example:port/jwks", "cannot be read"),
        ("https://[::1/jwks", "cannot be read"),
        ("/does/not/exist.json", "No such file"),
    ],
)
def test_invalid_location_is_rejected(location: str, message: str) -> None:
    """Keys come from https, from http on loopback, or from a file."""
    with pytest.raises(ConfigError, match=message) as caught:
        jwks_source(location)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8080", "[::1]:8080"])
def test_http_is_accepted_on_loopback(host: str) -> None:
    """A JWKS server on loopback needs no TLS."""
    assert isinstance(jwks_source(f"http://{host}/jwks"), JwksUrl)


def test_error_of_a_file_has_its_name(tmp_path: Path) -> None:
    """The error of a key file has the file's name."""
    path = tmp_path / "jwks.json"
    path.write_text("junk")
    with pytest.raises(ConfigError, match=r"jwks.json: not a JWKS"):
        jwks_source(str(path))
