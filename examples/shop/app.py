"""A small shop: catalogue, orders and a daily report, as a FastAPI application.

Settings, from the environment:
    DATABASE_URL  a PostgreSQL URL; without it the shop keeps its data in SQLite
    SHOP_SQLITE   the SQLite file (default: shop.sqlite3 in the working directory)
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, HTTPException, Path, Query, Request
from pydantic import BaseModel, Field

from . import legacy
from .storage import Order, OutOfStock, Product, Storage, UnknownProduct, open_storage


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.storage = await open_storage(
        os.environ.get("DATABASE_URL"), os.environ.get("SHOP_SQLITE", "shop.sqlite3")
    )
    try:
        yield
    finally:
        await app.state.storage.close()


app = FastAPI(title="shop", lifespan=lifespan)


Number = Annotated[int, Path(ge=1, le=2**31 - 1)]  # what an INTEGER column holds


class OrderLine(BaseModel):
    product_id: int = Field(ge=1, le=2**31 - 1)
    quantity: int = Field(ge=1, le=100)


class NewOrder(BaseModel):
    customer: str = Field(min_length=1, max_length=100)
    lines: list[OrderLine] = Field(min_length=1, max_length=20)


class Report(BaseModel):
    orders: int
    turnover_cents: int
    turnover_euro: str


def storage_of(request: Request) -> Storage:
    storage: Storage = request.app.state.storage
    return storage


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}


@app.get("/products")
async def list_products(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
) -> list[Product]:
    return await storage_of(request).products(limit, offset)


@app.get("/products/{product_id}")
async def product_detail(request: Request, product_id: Number) -> Product:
    product = await storage_of(request).product(product_id)
    if product is None:
        raise HTTPException(404, "no such product")
    return product


@app.post("/orders", status_code=201)
async def create_order(request: Request, new: NewOrder) -> Order:
    lines = [(line.product_id, line.quantity) for line in new.lines]
    try:
        return await storage_of(request).create_order(new.customer, lines)
    except UnknownProduct as unknown:
        raise HTTPException(422, f"no such product: {unknown}") from None
    except OutOfStock as empty:
        raise HTTPException(409, f"out of stock: {empty}") from None


@app.get("/orders/{order_id}")
async def order_status(request: Request, order_id: Number) -> Order:
    order = await storage_of(request).order(order_id)
    if order is None:
        raise HTTPException(404, "no such order")
    return order


@app.get("/reports/daily")
async def daily_report(request: Request) -> Report:
    count, cents = await storage_of(request).turnover()
    euro = cents / legacy.euro_rate() / 100
    return Report(orders=count, turnover_cents=cents, turnover_euro=f"{euro:.2f}")
