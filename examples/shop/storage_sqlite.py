"""SQLite through aiosqlite: one connection that reads, one that writes, each with its thread."""

from __future__ import annotations

import asyncio
from typing import cast

import aiosqlite

from .storage import FIRST_PRODUCTS, TABLES, Order, OutOfStock, Product, UnknownProduct


class SqliteStorage:
    def __init__(self, reader: aiosqlite.Connection, writer: aiosqlite.Connection) -> None:
        self._reader = reader
        self._writer = writer
        self._write_lock = asyncio.Lock()  # a connection has only one transaction at a time

    @classmethod
    async def open(cls, path: str) -> SqliteStorage:
        writer = await aiosqlite.connect(path, isolation_level=None)
        await writer.execute("PRAGMA journal_mode = WAL")
        await writer.execute("PRAGMA synchronous = NORMAL")
        for table in TABLES:
            await writer.execute(table.format(serial="INTEGER PRIMARY KEY"))
        await writer.executemany(
            "INSERT OR IGNORE INTO products VALUES (?, ?, ?, ?)", FIRST_PRODUCTS
        )
        reader = await aiosqlite.connect(path, isolation_level=None)
        reader.row_factory = aiosqlite.Row
        return cls(reader, writer)

    async def close(self) -> None:
        await self._reader.close()
        await self._writer.close()

    async def products(self, limit: int, offset: int) -> list[Product]:
        rows = await self._reader.execute_fetchall(
            "SELECT id, name, price_cents, stock FROM products ORDER BY id LIMIT ? OFFSET ?",
            (limit, offset),
        )
        return [cast(Product, dict(row)) for row in rows]

    async def product(self, product_id: int) -> Product | None:
        rows = await self._reader.execute_fetchall(
            "SELECT id, name, price_cents, stock FROM products WHERE id = ?", (product_id,)
        )
        return next((cast(Product, dict(row)) for row in rows), None)

    async def order(self, order_id: int) -> Order | None:
        rows = await self._reader.execute_fetchall(
            "SELECT id, customer, status, total_cents FROM orders WHERE id = ?", (order_id,)
        )
        return next((cast(Order, dict(row)) for row in rows), None)

    async def create_order(self, customer: str, lines: list[tuple[int, int]]) -> Order:
        async with self._write_lock:
            await self._writer.execute("BEGIN IMMEDIATE")
            try:
                order = await self._insert(customer, lines)
                await self._writer.execute("COMMIT")
            except BaseException:
                await self._writer.execute("ROLLBACK")
                raise
        return order

    async def _insert(self, customer: str, lines: list[tuple[int, int]]) -> Order:
        total = 0
        for product_id, quantity in lines:
            rows = await self._writer.execute_fetchall(
                "SELECT price_cents, stock FROM products WHERE id = ?", (product_id,)
            )
            found = next(iter(rows), None)
            if found is None:
                raise UnknownProduct(product_id)
            if found[1] < quantity:
                raise OutOfStock(product_id)
            total += found[0] * quantity
            await self._writer.execute(
                "UPDATE products SET stock = stock - ? WHERE id = ?", (quantity, product_id)
            )
        cursor = await self._writer.execute(
            "INSERT INTO orders (customer, status, total_cents) VALUES (?, 'accepted', ?)",
            (customer, total),
        )
        order_id = cursor.lastrowid
        assert order_id is not None
        await self._writer.executemany(
            "INSERT INTO order_lines VALUES (?, ?, ?)",
            [(order_id, product_id, quantity) for product_id, quantity in lines],
        )
        return Order(id=order_id, customer=customer, status="accepted", total_cents=total)

    async def turnover(self) -> tuple[int, int]:
        rows = await self._reader.execute_fetchall(
            "SELECT count(*), coalesce(sum(total_cents), 0) FROM orders"
        )
        count, cents = next(iter(rows))
        return int(count), int(cents)
