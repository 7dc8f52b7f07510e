"""Tokens of users, and the caller that Fleetlimit counts."""

import asyncio
import time
from typing import Annotated, Any

import jwt
from fastapi import Depends, HTTPException
from starlette.requests import HTTPConnection

from fleetlimit import Limit, Principal
from shop.database import Database, User

_HOUR_SECONDS = 3_600


class Accounts:
    """Tokens and users.

    Args:
        database: Database of the users.
        secret: Secret that signs the tokens, of at least 32 bytes.
    """

    def __init__(self, database: Database, secret: str) -> None:
        self.database = database
        self._secret = secret

    def token(self, name: str) -> str:
        """Return a token of a user."""
        claims = {"sub": name, "exp": int(time.time()) + _HOUR_SECONDS}
        return jwt.encode(claims, self._secret, algorithm="HS256")

    async def user(self, connection: HTTPConnection) -> User | None:
        """Return the user of the request's token; None without a valid one."""
        scheme, _, token = connection.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        try:
            claims: dict[str, Any] = jwt.decode(token, self._secret, algorithms=["HS256"])
        except jwt.InvalidTokenError:
            return None
        # SQLite blocks, so it runs in a thread.
        return await asyncio.to_thread(self.database.user, str(claims.get("sub", "")))

    async def principal(self, connection: HTTPConnection) -> Principal | None:
        """Return the caller whose limits apply to a request: Fleetlimit's `resolver`."""
        user = await self.user(connection)
        return Principal(user.name, tier=user.plan) if user is not None else None

    async def limits(self, principal: Principal, policy: str) -> str | Limit | None:
        """Return a caller's own limit from the table of plans: Fleetlimit's `limits`."""
        if policy != "orders":
            return None
        return await asyncio.to_thread(self.database.orders_of, principal.tier)


async def current_user(connection: HTTPConnection) -> User:
    """Return the user of a request, or reject the request with 401."""
    accounts: Accounts = connection.app.state.accounts
    user = await accounts.user(connection)
    if user is None:
        raise HTTPException(401, "log in first", {"WWW-Authenticate": "Bearer"})
    return user


CurrentUser = Annotated[User, Depends(current_user)]
