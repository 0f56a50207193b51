"""PostgreSQL through an asyncpg pool."""

from __future__ import annotations

from typing import Any, cast

import asyncpg

from .storage import FIRST_PRODUCTS, TABLES, Order, OutOfStock, Product, UnknownProduct


class PostgresStorage:
    def __init__(self, pool: Any) -> None:
        self._pool = pool

    @classmethod
    async def open(cls, url: str) -> PostgresStorage:
        pool = await asyncpg.create_pool(url, min_size=1, max_size=10)
        async with pool.acquire() as connection, connection.transaction():
            # Workers that start together would otherwise create the same tables at once.
            await connection.execute("SELECT pg_advisory_xact_lock(8437201)")
            for table in TABLES:
                await connection.execute(table.format(serial="SERIAL PRIMARY KEY"))
            await connection.executemany(
                "INSERT INTO products VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
                FIRST_PRODUCTS,
            )
        return cls(pool)

    async def close(self) -> None:
        await self._pool.close()

    async def products(self, limit: int, offset: int) -> list[Product]:
        rows = await self._pool.fetch(
            "SELECT id, name, price_cents, stock FROM products ORDER BY id LIMIT $1 OFFSET $2",
            limit,
            offset,
        )
        return [cast(Product, dict(row)) for row in rows]

    async def product(self, product_id: int) -> Product | None:
        row = await self._pool.fetchrow(
            "SELECT id, name, price_cents, stock FROM products WHERE id = $1", product_id
        )
        return cast(Product, dict(row)) if row else None

    async def order(self, order_id: int) -> Order | None:
        row = await self._pool.fetchrow(
            "SELECT id, customer, status, total_cents FROM orders WHERE id = $1", order_id
        )
        return cast(Order, dict(row)) if row else None

    async def create_order(self, customer: str, lines: list[tuple[int, int]]) -> Order:
        async with self._pool.acquire() as connection, connection.transaction():
            total = 0
            # In the order of their numbers: two orders never lock each other out.
            for product_id, quantity in sorted(lines):
                found = await connection.fetchrow(
                    "SELECT price_cents, stock FROM products WHERE id = $1 FOR UPDATE", product_id
                )
                if found is None:
                    raise UnknownProduct(product_id)
                if found["stock"] < quantity:
                    raise OutOfStock(product_id)
                total += found["price_cents"] * quantity
                await connection.execute(
                    "UPDATE products SET stock = stock - $1 WHERE id = $2", quantity, product_id
                )
            order_id = await connection.fetchval(
                "INSERT INTO orders (customer, status, total_cents) VALUES ($1, 'accepted', $2)"
                " RETURNING id",
                customer,
                total,
            )
            await connection.executemany(
                "INSERT INTO order_lines VALUES ($1, $2, $3)",
                [(order_id, product_id, quantity) for product_id, quantity in lines],
            )
        return Order(id=order_id, customer=customer, status="accepted", total_cents=total)

    async def turnover(self) -> tuple[int, int]:
        row = await self._pool.fetchrow(
            "SELECT count(*), coalesce(sum(total_cents), 0) FROM orders"
        )
        return int(row[0]), int(row[1])
