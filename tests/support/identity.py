"""Requests, a token issuer and a JWKS server for the tests of identity."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from fleetlimit.core.quota import SECOND_US
from fleetlimit.errors import IdentityError
from fleetlimit.identity.bearer import JwtVerifier
from support.clock import EPOCH_US

ISSUER = "https://issuer.example"
AUDIENCE = "api"
NOW = EPOCH_US // SECOND_US


def request(
    *headers: tuple[str, str | bytes], client: tuple[str, int] | None = ("192.0.2.1", 4711)
) -> dict[str, Any]:
    """Return an ASGI scope with these headers and this peer."""
    raw = [
        (name.lower().encode(), value if isinstance(value, bytes) else value.encode())
        for name, value in headers
    ]
    return {"type": "http", "headers": raw, "client": client}


def bearer_request(token: str | bytes) -> dict[str, Any]:
    """Return an ASGI scope with this bearer token."""
    raw = token if isinstance(token, bytes) else token.encode()
    return request(("Authorization", b"Bearer " + raw))


def api_key_file(directory: Path, *, key: str | bytes, name: str = "alice", tier: str = "") -> Path:
    """Write a file of one API key, and return its path."""
    digest = hashlib.sha256(key if isinstance(key, bytes) else key.encode()).hexdigest()
    path = directory / "keys.yaml"
    path.write_text(f'keys: [{{sha256: {digest}, principal: {name}, tier: "{tier}"}}]')
    return path


@cache
def rsa_key(name: str, bits: int = 2048) -> rsa.RSAPrivateKey:
    """Return the RSA key of this name, generated once for all tests."""
    del name
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


@cache
def ec_key(name: str) -> ec.EllipticCurvePrivateKey:
    """Return the P-256 key of this name, generated once for all tests."""
    del name
    return ec.generate_private_key(ec.SECP256R1())


def rsa_jwk(name: str, **members: Any) -> dict[str, Any]:
    """Return the public JWK of an RSA key; its name is its kid."""
    return {**RSAAlgorithm.to_jwk(rsa_key(name).public_key(), as_dict=True), "kid": name, **members}


def ec_jwk(name: str, **members: Any) -> dict[str, Any]:
    """Return the public JWK of a P-256 key; its name is its kid."""
    return {**ECAlgorithm.to_jwk(ec_key(name).public_key(), as_dict=True), "kid": name, **members}


def jwks(*keys: Mapping[str, Any]) -> bytes:
    """Return a JWKS document."""
    return json.dumps({"keys": keys}).encode()


def token(kid: str | None = "one", algorithm: str = "RS256", **claims: Any) -> str:
    """Sign a valid token; `claims` override the default claims, and None removes one."""
    defaults = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": NOW + 600}
    payload = {name: value for name, value in {**defaults, **claims}.items() if value is not None}
    key = ec_key(kid or "one") if algorithm == "ES256" else rsa_key(kid or "one")
    return jwt.encode(payload, key, algorithm, headers={"kid": kid} if kid else None)


def lasting_token(**claims: Any) -> str:
    """Sign a token that the clock of this machine finds valid."""
    return token(**{"exp": 2**40, **claims})


@dataclass
class JwksServer:
    """Response of a JWKS server, and its number of requests."""

    document: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    url: str = ""
    hits: int = 0


@contextmanager
def jwks_server(document: bytes) -> Iterator[JwksServer]:
    """Serve a JWKS document on a free port of 127.0.0.1."""
    server = JwksServer(document)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.hits += 1
            self.send_response(server.status)
            for name, value in server.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(server.document)))
            self.end_headers()
            self.wfile.write(server.document)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        server.url = f"http://127.0.0.1:{httpd.server_port}/jwks.json"
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            httpd.shutdown()
            thread.join()


async def rejection_reason(tokens: JwtVerifier, presented: str | bytes) -> str:
    """Return the reason for which a token is rejected."""
    with pytest.raises(IdentityError) as caught:
        await tokens.resolve(bearer_request(presented))
    return caught.value.reason


def jwt_segment(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


CLAIMS = {"iss": ISSUER, "aud": AUDIENCE, "sub": "mallory", "exp": NOW + 600}


def unsigned(algorithm: str = "none") -> str:
    return f"{jwt_segment({'alg': algorithm, 'kid': 'one'})}.{jwt_segment(CLAIMS)}."


def secret_token(
    secret: str, algorithm: str = "HS256", *, kid: str | None = None, **claims: Any
) -> str:
    """Sign a valid token with a shared secret; `claims` as in `token`."""
    defaults = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": NOW + 600}
    payload = {name: value for name, value in {**defaults, **claims}.items() if value is not None}
    return jwt.encode(payload, secret, algorithm, headers={"kid": kid} if kid else None)
