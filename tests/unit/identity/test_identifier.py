"""RequestIdentifier: the first credential that verifies identifies the caller; it never raises."""

import asyncio
import hashlib
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import HTTPConnection

import fleetlimit.identity
from fleetlimit.core.subject import Identity, Principal
from fleetlimit.errors import ConfigError, IdentityError
from fleetlimit.identity import (
    ApiKeyVerifier,
    ClientAddressResolver,
    IdentityErrorReason,
    RequestIdentifier,
    open_jwks,
)
from fleetlimit.identity.bearer import JwtVerifier
from fleetlimit.identity.jwks import JwksFile
from fleetlimit.limiter.failure_log import FailureLog
from fleetlimit.web.http_limiter import Identifier
from support.clock import ManualClock
from support.identity import AUDIENCE, ISSUER, jwks, request, rsa_jwk, token

KEY = ("X-API-Key", "alice-key")
BAD_KEY = ("X-API-Key", "guess")
BAD_TOKEN = ("Authorization", "Bearer guess")


def good_token() -> tuple[str, str]:
    return ("Authorization", f"Bearer {token(sub='bob')}")


async def custom(scope: Mapping[str, Any]) -> Principal | None:
    """Verify the header `X-Custom`: its value is the name, except `bad`, `bug` and `text`."""
    name = dict(scope["headers"]).get(b"x-custom", b"").decode()
    match name:
        case "":
            return None
        case "bad":
            raise IdentityError("bad", reason="cookie")
        case "bug":
            raise ZeroDivisionError
        case "text":
            return "carol"  # type: ignore[return-value] # what a careless resolver does
        case _:
            return Principal(name, "gold", source="jwt")


@pytest.fixture(name="identifier")
def _identifier(tmp_path: Path) -> Identifier:
    keys = tmp_path / "keys.yaml"
    digest = hashlib.sha256(b"alice-key").hexdigest()
    keys.write_text(f"keys: [{{sha256: {digest}, principal: alice, tier: pro}}]")
    document = tmp_path / "jwks.json"
    document.write_bytes(jwks(rsa_jwk("one")))
    tokens = JwtVerifier(
        JwksFile(document), issuer=ISSUER, audience=AUDIENCE, clock=ManualClock().seconds
    )
    return RequestIdentifier(
        ClientAddressResolver(), api_keys=ApiKeyVerifier(keys), jwt=tokens, resolver=custom
    )


ALICE = Principal("alice", "pro", source="api_key")
BOB = Principal("bob", source="jwt")
CAROL = Principal("carol", "gold", source="custom")


@pytest.mark.parametrize(
    ("headers", "principal"),
    [
        ([KEY], ALICE),
        ([good_token()], BOB),
        ([("X-Custom", "carol")], CAROL),
        ([KEY, good_token(), ("X-Custom", "carol")], ALICE),
        ([good_token(), ("X-Custom", "carol")], BOB),
        ([BAD_KEY, good_token()], BOB),
        ([KEY, BAD_TOKEN], ALICE),
        ([BAD_KEY, BAD_TOKEN, ("X-Custom", "carol")], CAROL),
    ],
)
async def test_first_valid_credential_identifies_the_principal(
    identifier: Identifier, headers: list[tuple[str, str]], principal: Principal
) -> None:
    """The order is API key, token, custom resolver; a valid credential clears earlier errors."""
    assert await identifier.identify(request(*headers)) == Identity("192.0.2.1", principal)


@pytest.mark.parametrize(
    ("headers", "reason", "scheme"),
    [
        ([BAD_KEY], "unknown_api_key", "APIKey"),
        ([("X-API-Key", "k" * 1025)], "too_long", "APIKey"),
        ([BAD_TOKEN], "malformed", "Bearer"),
        ([("Authorization", "Bearer " + "a" * 4096)], "too_long", "Bearer"),
        ([BAD_KEY, BAD_TOKEN], "unknown_api_key", "APIKey"),
        ([("X-Custom", "bad")], "cookie", "Custom"),
        ([BAD_TOKEN, ("X-Custom", "bad")], "malformed", "Bearer"),
    ],
)
async def test_invalid_credential_is_an_error_without_a_principal(
    identifier: Identifier, headers: list[tuple[str, str]], reason: str, scheme: str
) -> None:
    """The caller is counted by address, and the error is the first one."""
    identity = await identifier.identify(request(*headers))
    assert identity.client_address == "192.0.2.1"
    assert identity.principal is None
    assert identity.error is not None
    assert identity.error.reason == reason
    assert identity.error.scheme == scheme


@pytest.mark.parametrize("name", ["bug", "text"])
async def test_failing_resolver_does_not_fail_the_request(
    identifier: Identifier, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception or a wrong result of a resolver is logged, and the request is anonymous.

    The resolver might have accepted the request, so its failure comes before an invalid key.
    """
    identity = await identifier.identify(request(("X-Custom", name)))
    again = await identifier.identify(request(BAD_KEY, ("X-Custom", name)))
    assert identity.principal is None
    assert identity.error is not None
    assert identity.error.reason == IdentityErrorReason.RESOLVER_FAILED
    assert again.error is not None
    assert again.error.reason == IdentityErrorReason.RESOLVER_FAILED
    assert (identity.error.retry_after, again.error.retry_after) == (1, 1)
    assert [(each.name, each.message) for each in caplog.records] == [
        ("fleetlimit", "identity.resolver_failed")
    ] * 2
    assert all(each.exc_info for each in caplog.records)


def identifier_of(resolver: Any, *, timeout_s: float = 60.0) -> RequestIdentifier:
    return RequestIdentifier(
        ClientAddressResolver(), resolver=resolver, resolver_timeout_s=timeout_s
    )


async def failure(resolver: Any, caplog: pytest.LogCaptureFixture, **options: float) -> str:
    """Return the type and text of the exception that a failing resolver is logged with."""
    identity = await identifier_of(resolver, **options).identify(request())
    assert identity.principal is None
    assert identity.error is not None
    assert identity.error.reason == IdentityErrorReason.RESOLVER_FAILED
    assert identity.error.scheme == "Custom"
    (record,) = caplog.records
    assert record.exc_info
    return f"{record.exc_info[0].__name__}: {record.exc_info[1]}"  # type: ignore[union-attr] # set


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("carol", "the resolver returned str: return Principal or None"),
        (True, "the resolver returned bool: return Principal or None"),
        ({"name": "carol"}, "the resolver returned dict: return Principal or None"),
        (Identity("192.0.2.1", ALICE), "the resolver returned Identity: return Principal or None"),
        (Principal(""), "name or tier is not text: return Principal(str(user.id), user.plan"),
    ],
)
async def test_result_that_is_no_principal_is_a_failure(
    returned: Any, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Only a principal with a name, or None, is accepted, and the log says what to return."""

    async def resolver(_request: HTTPConnection) -> Any:
        return returned

    assert message in await failure(resolver, caplog)


@pytest.mark.parametrize("arguments", [(7,), ("carol", None)])
async def test_principal_that_is_not_text_is_a_failure(
    arguments: tuple[Any, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """A principal whose name is a number, or whose tier is None, identifies no caller."""

    async def resolver(_request: HTTPConnection) -> Principal:
        return Principal(*arguments)  # compiled code raises here

    assert "TypeError" in await failure(resolver, caplog)


async def test_hanging_resolver_is_bounded_in_time(caplog: pytest.LogCaptureFixture) -> None:
    """A resolver that does not return holds the request for its timeout only."""

    async def resolver(_request: HTTPConnection) -> Principal | None:
        await asyncio.Event().wait()
        raise AssertionError

    found = await failure(resolver, caplog, timeout_s=0.001)
    assert found == "TimeoutError: the resolver did not return within 0.001 s"


@pytest.mark.parametrize("error", [TimeoutError("db"), asyncio.CancelledError(), OSError("db")])
async def test_exception_of_a_resolver_is_a_failure(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """A timeout or a cancellation of the resolver's own does not end the request."""

    async def resolver(_request: HTTPConnection) -> Principal | None:
        raise error

    expected = {
        TimeoutError: "TimeoutError: db",
        asyncio.CancelledError: "RuntimeError: the resolver was cancelled by its own task",
        OSError: "OSError: db",
    }
    assert await failure(resolver, caplog) == expected[type(error)]


async def test_cancelled_request_cancels_the_resolver() -> None:
    """A client that disconnects ends the call of the resolver, and the request."""
    started, ended = asyncio.Event(), asyncio.Event()

    async def resolver(_request: HTTPConnection) -> Principal | None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    task = asyncio.ensure_future(identifier_of(resolver).identify(request()))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_log_of_a_failing_resolver_is_sampled(caplog: pytest.LogCaptureFixture) -> None:
    """A flood of failures has five tracebacks in ten seconds, and an exact count."""
    clock = ManualClock()
    log = FailureLog(clock)
    identifier = RequestIdentifier(ClientAddressResolver(), resolver=custom, failure_log=log)
    for _ in range(200):
        await identifier.identify(request(("X-Custom", "bug")))
    await identifier.identify(request(("X-Custom", "text")))
    log.close()
    assert [each.message for each in caplog.records] == [
        *["identity.resolver_failed"] * 6,
        "identity.resolver_failed.suppressed error=ZeroDivisionError suppressed=195",
    ]


def not_async(_request: HTTPConnection) -> Principal | None:
    """Return nothing."""


async def without_argument() -> Principal | None:
    """Return nothing."""


async def with_two(_request: HTTPConnection, _other: str) -> Principal | None:
    """Return nothing."""


async def returns_text(_request: HTTPConnection) -> str:
    """Return a name."""
    return "carol"


async def returns_text_or_none(_request: HTTPConnection) -> "str | None":
    """Return nothing."""


async def generates(_request: HTTPConnection) -> AsyncIterator[Principal]:
    """Yield a principal."""
    yield ALICE


@pytest.mark.parametrize(
    ("resolver", "message"),
    [
        (not_async, "is not async: write `async def`"),
        (lambda _request: custom({"headers": []}), "is not async"),
        (generates, "is not async"),
        (print, "is not async"),
        ("carol", "is not a function"),
        (ApiKeyVerifier, "is not a function"),
        (without_argument, "cannot be called with one argument: write `async def resolver"),
        (with_two, "cannot be called with one argument"),
        (returns_text, "returns <class 'str'>: return Principal or None"),
        (returns_text_or_none, r"returns str \| None: return Principal or None"),
    ],
)
def test_resolver_is_judged_when_it_is_given(resolver: Any, message: str) -> None:
    """A mistake that can be seen without a request is an error at start."""
    with pytest.raises(ConfigError, match=message):
        identifier_of(resolver)


class Resolver:
    """An object that is called, as an app may have one."""

    async def __call__(self, request: HTTPConnection) -> Principal | None:
        """Return a principal."""
        return Principal(request.headers["x-custom"])

    async def method(self, request: HTTPConnection, default: str = "") -> Any:
        """Return a principal."""
        return Principal(request.headers.get("x-custom", default))


async def annotated(request: "Unknown") -> "Unknown":  # type: ignore[name-defined] # noqa: F821 - as under TYPE_CHECKING
    """Return a principal, with annotations of names that are not there at run time."""
    return Principal(request.headers["x-custom"])


@pytest.mark.parametrize(
    "resolver",
    [
        Resolver(),
        Resolver().method,
        partial(Resolver.method, Resolver()),
        annotated,
    ],
    ids=["object", "method", "partial", "annotated"],
)
async def test_resolver_may_be_any_async_callable(resolver: Any) -> None:
    """Objects, methods and partial functions are called with the request."""
    identity = await identifier_of(resolver).identify(request(("X-Custom", "carol")))
    assert identity.principal == Principal("carol", source="custom")


@pytest.mark.parametrize("headers", [[], [("Authorization", "Basic YTpi")]])
async def test_missing_credential_is_no_error(
    identifier: Identifier, headers: list[tuple[str, str]]
) -> None:
    """A request without a known credential has only an address."""
    assert await identifier.identify(request(*headers)) == Identity("192.0.2.1")


async def test_unconfigured_credentials_are_ignored() -> None:
    """Without verifiers every request is anonymous."""
    identity = await RequestIdentifier(ClientAddressResolver()).identify(request(KEY, BAD_TOKEN))
    assert identity == Identity("192.0.2.1")


async def test_two_callers_never_share_an_identity(identifier: Identifier) -> None:
    """Each credential and address is an identity (fastapi-limiter #80, PyrateLimiter #238)."""
    scopes = [
        request(KEY),
        request(good_token()),
        request(("X-Custom", "alice")),
        request(),
        request(client=("192.0.2.2", 1)),
    ]
    identities = [await identifier.identify(scope) for scope in scopes]
    assert len({(who.client_address, who.principal) for who in identities}) == len(scopes)


def test_public_names_are_sorted_and_exist() -> None:
    """`__all__` lists the package's public names."""
    names = fleetlimit.identity.__all__
    assert names == sorted(names)
    assert all(hasattr(fleetlimit.identity, name) for name in names)


@pytest.mark.parametrize("missing", ["jwt", "cryptography.hazmat.primitives.asymmetric.rsa"])
def test_missing_pyjwt_names_the_extra(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without PyJWT or cryptography, the error of a verifier names the extra to install."""
    for name in ("fleetlimit.identity.bearer", "fleetlimit.identity.jwks"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ConfigError, match=r"needs PyJWT: pip install 'fleetlimit\[jwt\]'"):
        open_jwks("jwks.json")


def test_other_missing_modules_are_not_blamed_on_pyjwt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing module that is not part of the extra is raised as it is."""
    for name in ("fleetlimit.identity.bearer", "fleetlimit.identity.jwks"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "anyio.to_thread", None)
    with pytest.raises(ModuleNotFoundError, match="anyio"):
        open_jwks("jwks.json")


def test_import_does_not_need_pyjwt() -> None:
    """Without PyJWT and cryptography, everything but bearer tokens can be imported."""
    code = (
        "import sys\n"
        "sys.modules |= dict.fromkeys(('jwt', 'cryptography'))\n"
        "import fleetlimit.identity, fleetlimit.bootstrap.build"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
