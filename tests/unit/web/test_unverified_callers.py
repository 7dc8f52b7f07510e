"""Callers whose credential the app accepts never evade the limits of their tier."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from starlette.testclient import TestClient

from fleetlimit.core.policy import Match, Policy
from fleetlimit.core.subject import Principal
from fleetlimit.identity import ApiKeyVerifier, ClientAddressResolver, RequestIdentifier
from fleetlimit.identity.bearer import JwtVerifier
from fleetlimit.identity.jwks import JwksFile
from fleetlimit.web.dependency import PolicyLimit
from fleetlimit.web.middleware import RateLimitMiddleware
from support.clock import ManualClock
from support.identity import AUDIENCE, ISSUER, api_key_file, jwks, rsa_jwk, token
from support.web import LimiterBench

BLANKS = ["", "\t", " ", "\x0b", "\x0c", "\x1c", "\x1f", "\x85", "\xa0"]
FREE = Policy("free", "3/minute", match=Match(tiers=frozenset({"free"})))
PRO = Policy("pro", "60/minute", match=Match(tiers=frozenset({"pro"})))
TIERS = Policy("named", "50/minute", tiers={"pro": "60/minute", "free": "3/minute"})

app = FastAPI()


@app.get("/bearer")
async def by_token(
    credentials: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())],
) -> str:
    """Return the token that the app accepts."""
    return credentials.credentials


@app.get("/key")
async def by_key(key: Annotated[str, Depends(APIKeyHeader(name="X-API-Key"))]) -> str:
    """Return the key that the app accepts."""
    return key


@app.get("/named", dependencies=[Depends(PolicyLimit("named"))])
async def named() -> None:
    """Return nothing."""


async def unavailable(_scope: Mapping[str, Any]) -> Principal | None:
    """Fail as a resolver whose database is unavailable."""
    raise ConnectionError


@pytest.fixture(name="client")
def _client(tmp_path: Path) -> Iterator[TestClient]:
    document = tmp_path / "jwks.json"
    document.write_bytes(jwks(rsa_jwk("one")))
    bench = LimiterBench(FREE, PRO, TIERS)
    bench.http_limiter.identifier = RequestIdentifier(
        ClientAddressResolver(),
        api_keys=ApiKeyVerifier(api_key_file(tmp_path, key="key", tier="free")),
        jwt=JwtVerifier(
            JwksFile(document),
            issuer=ISSUER,
            audience=AUDIENCE,
            tier_claim="plan",
            clock=ManualClock().seconds,
        ),
    )
    limited = bench.install(FastAPI())
    limited.router.routes.extend(app.router.routes)
    limited.add_middleware(RateLimitMiddleware)
    with TestClient(limited) as client:
        yield client


def served(client: TestClient, path: str, name: str, value: str) -> int:
    """Return how many of 10 requests with a credential are served."""
    headers = [(name.encode(), value.encode("latin-1"))]
    found = [client.get(path, headers=headers).status_code for _ in range(10)]
    assert set(found) <= {200, 429}
    return found.count(200)


@pytest.mark.parametrize("blank", BLANKS, ids=ascii)
def test_token_between_blanks_has_its_tier(client: TestClient, blank: str) -> None:
    """A free caller has the limit of its tier however it writes the token."""
    presented = f"Bearer {blank}{token(plan='free')}{blank}"
    assert served(client, "/bearer", "Authorization", presented) == 3


@pytest.mark.parametrize(
    ("path", "name", "value"),
    [
        ("/bearer", "Authorization", "Bearer opaque"),
        ("/bearer", "Authorization", f"Bearer {'a' * 5000}"),
        ("/bearer", "Authorization", "bearer  expired"),
        ("/key", "X-API-Key", "unknown"),
        ("/key", "X-API-Key", "key\t\xa0"),
        ("/key", "X-API-Key", "k" * 2000),
    ],
)
def test_credential_that_only_the_app_accepts_has_the_limits_of_all_tiers(
    client: TestClient, path: str, name: str, value: str
) -> None:
    """A credential that the limiter cannot verify evades no policy that matches a tier."""
    assert served(client, path, name, value) == 3


def test_unverified_caller_has_the_strictest_limits_of_a_policy(client: TestClient) -> None:
    """The limits of a policy for callers without a credential are not those of a false one."""
    assert client.get("/named").headers["RateLimit-Policy"] == '"named";q=50;w=60'
    false = client.get("/named", headers={"Authorization": "Bearer opaque"})
    assert '"named";q=3;w=60' in false.headers["RateLimit-Policy"]


def test_failing_resolver_does_not_lift_the_limits_of_tiers() -> None:
    """While the app's resolver fails, the limits of all tiers apply by address."""
    bench = LimiterBench(FREE, PRO)
    bench.http_limiter.identifier = RequestIdentifier(ClientAddressResolver(), resolver=unavailable)
    limited = bench.install(FastAPI())
    limited.add_api_route("/", lambda: None)
    limited.add_middleware(RateLimitMiddleware)
    with TestClient(limited) as client:
        assert [client.get("/").status_code for _ in range(5)].count(200) == 3
