"""HTTP API of the example app."""

import os

from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI(title="Orders")


class Order(BaseModel):
    """Accepted order."""

    greeting: str
    status: str = "taken"


@app.post("/orders")
async def create_order() -> Order:
    """Accept an order."""
    return Order(greeting=os.environ.get("ORDERS_GREETING", "welcome"))


@app.get("/orders/{order_id}")
async def read_order(order_id: int) -> dict[str, int]:
    """Return an order."""
    return {"order": order_id}
