"""Login, items and orders."""

import asyncio

from fastapi import APIRouter, HTTPException, Request
from pydantic import BaseModel

from shop.accounts import Accounts, CurrentUser

router = APIRouter(prefix="/v1")


class Credentials(BaseModel):
    """Name and password."""

    name: str
    password: str


@router.post("/login")
async def login(credentials: Credentials, request: Request) -> dict[str, str]:
    """Return a token. The policy `login` counts wrong passwords only."""
    accounts: Accounts = request.app.state.accounts
    name, password = credentials.name, credentials.password
    if not await asyncio.to_thread(accounts.database.verify, name, password):
        raise HTTPException(401, "name or password is wrong")
    return {"token": accounts.token(name)}


@router.get("/items/{item_id}")
async def get_item(item_id: int) -> dict[str, int]:
    """Return an item, without a login."""
    return {"item_id": item_id}


@router.post("/orders", status_code=201)
async def create_order(user: CurrentUser) -> dict[str, str]:
    """Place an order. The plan of the user is its limit."""
    return {"ordered_by": user.name}
