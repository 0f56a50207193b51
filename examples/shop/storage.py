"""What the shop stores, whatever stores it: the interface, the schema and the first products."""

from __future__ import annotations

from typing import Protocol

from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12


class OutOfStock(Exception):
    """An order wants more of a product than there is; the argument is the product's number."""


class UnknownProduct(Exception):
    """An order names a product that does not exist; the argument is its number."""


class Product(TypedDict):
    id: int
    name: str
    price_cents: int
    stock: int


class Order(TypedDict):
    id: int
    customer: str
    status: str
    total_cents: int


class Storage(Protocol):
    """One catalogue and its orders. Every method may be called by many tasks at once."""

    async def close(self) -> None: ...
    async def products(self, limit: int, offset: int) -> list[Product]: ...
    async def product(self, product_id: int) -> Product | None: ...
    async def order(self, order_id: int) -> Order | None: ...
    async def create_order(self, customer: str, lines: list[tuple[int, int]]) -> Order:
        """Take stock and write the order, both or neither; lines are (product, quantity).

        Raises OutOfStock or UnknownProduct."""
        ...

    async def turnover(self) -> tuple[int, int]:
        """Number of orders and their sum in cents."""
        ...


TABLES = (
    """CREATE TABLE IF NOT EXISTS products (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL, price_cents INTEGER NOT NULL,
        stock INTEGER NOT NULL CHECK (stock >= 0))""",
    """CREATE TABLE IF NOT EXISTS orders (
        id {serial}, customer TEXT NOT NULL, status TEXT NOT NULL, total_cents INTEGER NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS order_lines (
        order_id INTEGER NOT NULL REFERENCES orders (id),
        product_id INTEGER NOT NULL REFERENCES products (id), quantity INTEGER NOT NULL)""",
)

FIRST_PRODUCTS: list[tuple[int, str, int, int]] = [
    (number, f"{colour} {thing}", 250 + 35 * number, 10_000_000)
    for number, (colour, thing) in enumerate(
        (
            (colour, thing)
            for thing in ("mug", "lamp", "chair", "kettle", "blanket")
            for colour in ("Red", "Blue", "Green", "White")
        ),
        start=1,
    )
]


async def open_storage(database_url: str | None, sqlite_path: str) -> Storage:
    """PostgreSQL where a URL is given, the embedded SQLite file otherwise.

    The drivers are imported here so that a deployment needs only the one it uses."""
    if database_url:
        from .storage_postgres import PostgresStorage

        return await PostgresStorage.open(database_url)
    from .storage_sqlite import SqliteStorage

    return await SqliteStorage.open(sqlite_path)
