"""asyncpg, psycopg and SQLAlchemy with a PostgreSQL server.

Over TLS they run in tests/py/test_tls_libs.py, which starts a server of its own for that.
"""

from __future__ import annotations

import asyncio
import io
import os
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest
import sqlalchemy as sa
from apps import run
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, selectinload

from loops import Factory, until


def test_asyncpg_pool(factory: Factory, postgres: str) -> None:
    async def main() -> None:
        async with asyncpg.create_pool(postgres, min_size=1, max_size=4) as pool:
            jobs = [pool.fetchval("SELECT $1::int * 2", n) for n in range(200)]
            assert await asyncio.gather(*jobs) == list(range(0, 400, 2))
            held = [await pool.acquire() for _ in range(4)]
            with pytest.raises(asyncio.TimeoutError):
                await pool.acquire(timeout=0.05)
            waiting = asyncio.ensure_future(pool.acquire())
            await pool.release(held.pop())
            held.append(await waiting)
            for connection in held:
                await pool.release(connection)
            with pytest.raises(asyncpg.UniqueViolationError):
                async with pool.acquire() as connection, connection.transaction():
                    await connection.execute("CREATE TEMP TABLE u (n int PRIMARY KEY)")
                    await connection.executemany("INSERT INTO u VALUES ($1)", [(1,), (1,)])
            assert pool.get_idle_size() == 4

    run(factory, main())


def test_asyncpg_copy(factory: Factory, postgres: str) -> None:
    lines = b"".join(b"%d\t%s\n" % (n, b"x" * (n % 300)) for n in range(20_000))

    async def main() -> None:
        connection = await asyncpg.connect(postgres)
        try:
            await connection.execute("CREATE TEMP TABLE c (n int, s text)")

            async def chunks() -> AsyncIterator[bytes]:
                for at in range(0, len(lines), 70_001):
                    await asyncio.sleep(0)
                    yield lines[at : at + 70_001]

            status = await connection.copy_to_table("c", source=chunks())
            assert status == "COPY 20000"
            out = io.BytesIO()
            await connection.copy_from_query("SELECT * FROM c ORDER BY n", output=out)
            assert out.getvalue() == lines
            parts: list[bytes] = []

            async def slowly(data: bytes) -> None:
                await asyncio.sleep(0)
                parts.append(data)

            await connection.copy_from_query("SELECT * FROM c ORDER BY n", output=slowly)
            assert b"".join(parts) == lines
            with pytest.raises(asyncpg.DataError):
                await connection.copy_to_table("c", source=io.BytesIO(b"no\tnumber\n"))
            assert await connection.fetchval("SELECT count(*) FROM c") == 20_000
        finally:
            await connection.close()

    run(factory, main())


def test_asyncpg_listen_and_notify(factory: Factory, postgres: str) -> None:
    channel = f"taut_{uuid.uuid4().hex}"

    async def main() -> None:
        heard: list[str] = []
        listener = await asyncpg.connect(postgres)
        sender = await asyncpg.connect(postgres)

        def hear(*args: Any) -> None:
            heard.append(args[-1])

        await listener.add_listener(channel, hear)
        for n in range(50):
            await sender.execute(f"NOTIFY {channel}, '{n}'")
        await until(lambda: len(heard) == 50, "all notifications")
        assert heard == [str(n) for n in range(50)]
        await listener.remove_listener(channel, hear)
        lost: list[Any] = []
        listener.add_termination_listener(lost.append)
        await sender.execute("SELECT pg_terminate_backend($1)", listener.get_server_pid())
        await until(lambda: lost, "the connection's end")
        with pytest.raises(asyncpg.InterfaceError):
            await listener.fetchval("SELECT 1")
        await sender.close()

    run(factory, main())


def test_asyncpg_cancels(factory: Factory, postgres: str) -> None:
    async def main() -> None:
        connection = await asyncpg.connect(postgres)
        for _ in range(5):
            query = asyncio.create_task(connection.fetchval("SELECT pg_sleep(60)"))
            await asyncio.sleep(0.02)
            query.cancel()
            with pytest.raises(asyncio.CancelledError):
                await query
            assert await connection.fetchval("SELECT 1") == 1
        with pytest.raises(asyncio.TimeoutError):
            await connection.fetchval("SELECT pg_sleep(60)", timeout=0.05)
        assert await connection.fetchval("SELECT 2") == 2
        await connection.close()
        gone = await asyncpg.connect(postgres)
        gone.terminate()
        with pytest.raises(asyncpg.InterfaceError):
            await gone.fetchval("SELECT 1")

    run(factory, main())


def test_psycopg(factory: Factory, postgres: str) -> None:
    async def main() -> None:
        async with await psycopg.AsyncConnection.connect(postgres, autocommit=True) as db:
            await db.execute("CREATE TEMP TABLE p (n int, b bytea)")
            blobs = [(n, os.urandom(n * 1000)) for n in range(100)]
            async with db.cursor() as cursor:
                await cursor.executemany("INSERT INTO p VALUES (%s, %s)", blobs)
            async with db.transaction(), db.cursor(name="stored") as cursor:
                await cursor.execute("SELECT * FROM p ORDER BY n")
                assert [(n, bytes(b)) async for n, b in cursor] == blobs
            async with db.pipeline():
                cursors = [await db.execute("SELECT %s::int", [n]) for n in range(100)]
            assert [(await cursor.fetchone()) for cursor in cursors] == [(n,) for n in range(100)]
            async with db.cursor() as cursor:
                async with cursor.copy("COPY p (n) TO STDOUT") as copy:
                    rows = [bytes(row) async for row in copy]
                assert sorted(map(int, b"".join(rows).split())) == list(range(100))

    run(factory, main())


def test_psycopg_notifies_and_cancels(factory: Factory, postgres: str) -> None:
    channel = f"taut_{uuid.uuid4().hex}"

    async def main() -> None:
        async with (
            await psycopg.AsyncConnection.connect(postgres, autocommit=True) as listener,
            await psycopg.AsyncConnection.connect(postgres, autocommit=True) as sender,
        ):
            await listener.execute(f"LISTEN {channel}")
            for n in range(10):
                await sender.execute("SELECT pg_notify(%s, %s)", [channel, str(n)])
            heard = [note.payload async for note in listener.notifies(timeout=20, stop_after=10)]
            assert heard == [str(n) for n in range(10)]
            assert [note async for note in listener.notifies(timeout=0.05)] == []
            query = asyncio.create_task(sender.execute("SELECT pg_sleep(60)"))
            await asyncio.sleep(0.05)
            query.cancel()
            with pytest.raises(asyncio.CancelledError):
                await query
            query = asyncio.create_task(sender.execute("SELECT pg_sleep(60)"))
            await asyncio.sleep(0.05)
            await sender.cancel_safe()
            with pytest.raises(psycopg.errors.QueryCanceled):
                await query
            assert await (await sender.execute("SELECT 1")).fetchone() == (1,)

    run(factory, main())


class Base(DeclarativeBase):
    """The tables of the test."""


class Shelf(Base):
    __tablename__ = "taut_shelf"
    id: Mapped[int] = mapped_column(primary_key=True)
    books: Mapped[list[Book]] = relationship(back_populates="shelf")


class Book(Base):
    __tablename__ = "taut_book"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(sa.String(20))
    shelf_id: Mapped[int] = mapped_column(sa.ForeignKey("taut_shelf.id"))
    shelf: Mapped[Shelf] = relationship(back_populates="books")


async def sqlalchemy_session(url: str, **options: Any) -> None:
    """The ORM on an engine: schema, concurrent sessions, streaming, a rollback."""
    engine = create_async_engine(url, **options)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.drop_all)
            await connection.run_sync(Base.metadata.create_all)
        async with sessions.begin() as session:
            for n in range(1, 6):
                books = [Book(title=f"{n}/{b}") for b in range(n)]
                session.add(Shelf(id=n, books=books))

        async def titles(shelf: int) -> list[str]:
            async with sessions() as session:
                query = sa.select(Shelf).where(Shelf.id == shelf)
                found = await session.scalar(query.options(selectinload(Shelf.books)))
                assert found is not None
                return sorted(book.title for book in found.books)

        expected = [[f"{n}/{b}" for b in range(n)] for n in range(1, 6)]
        assert await asyncio.gather(*(titles(n) for n in range(1, 6))) == expected
        with pytest.raises(ZeroDivisionError):
            async with sessions.begin() as session:
                await session.execute(sa.delete(Book))
                raise ZeroDivisionError
        async with sessions() as session:
            stream = await session.stream_scalars(sa.select(Book.title))
            assert sorted([title async for title in stream]) == sorted(sum(expected, []))
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.drop_all)
    finally:
        await engine.dispose()


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
def test_sqlalchemy(factory: Factory, postgres: str, driver: str) -> None:
    url = postgres.replace("postgres:", f"postgresql+{driver}:", 1)
    run(factory, sqlalchemy_session(url, pool_size=3))


def test_sqlalchemy_on_sqlite(factory: Factory, tmp_path: Path) -> None:
    run(factory, sqlalchemy_session(f"sqlite+aiosqlite:///{tmp_path / 'db'}"))


@pytest.mark.parametrize("driver", ["aiomysql", "asyncmy"])
def test_sqlalchemy_on_mysql(factory: Factory, mysql: str, driver: str) -> None:
    url = mysql.replace("mysql:", f"mysql+{driver}:", 1)
    run(factory, sqlalchemy_session(url, pool_size=3))
