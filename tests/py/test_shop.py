"""examples/shop under uvicorn on a taut loop, in this process, with both of its databases."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import sys
import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import taut

asyncpg = pytest.importorskip("asyncpg", reason="needs tools/requirements-demo.txt")
uvicorn = pytest.importorskip("uvicorn", reason="needs tools/requirements-demo.txt")
pytest.importorskip("fastapi", reason="needs tools/requirements-demo.txt")
pytest.importorskip("aiosqlite", reason="needs tools/requirements-demo.txt")

ROOT = Path(__file__).resolve().parents[2]
POSTGRES = os.environ.get("TEST_DATABASE_URL", "postgres://postgres@127.0.0.1:5432/test")

Ask = Callable[..., Awaitable[tuple[int, Any]]]


def run_on_taut(main: Awaitable[Any]) -> Any:
    with asyncio.Runner(loop_factory=taut.new_event_loop) as runner:
        return runner.run(main)  # type: ignore[arg-type]


async def postgres(statement: str) -> None:
    connection = await asyncpg.connect(POSTGRES, timeout=5)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture(params=["sqlite", "postgres"])
def shop(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """The application, set up for a database of its own."""
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setenv("SHOP_SQLITE", str(tmp_path / "shop.sqlite3"))
    database = None
    if request.param == "postgres":
        database = f"taut_shop_{uuid.uuid4().hex}"
        try:
            asyncio.run(postgres(f"CREATE DATABASE {database}"))
        except (OSError, asyncpg.PostgresError) as exc:
            pytest.skip(f"no PostgreSQL at {POSTGRES}: {exc}")
        monkeypatch.setenv("DATABASE_URL", POSTGRES.rpartition("/")[0] + "/" + database)
    else:
        monkeypatch.delenv("DATABASE_URL", raising=False)
    from examples.shop.app import app

    yield app
    if database is not None:
        asyncio.run(postgres(f"DROP DATABASE {database}"))


def ask_over_socket(port: int, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {"Content-Type": "application/json"} if text else {})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


async def serve(app: Any, client: Callable[[Ask], Awaitable[None]]) -> None:
    """Run the service, let the client talk to it, stop it."""
    assert type(asyncio.get_running_loop()).__module__.startswith("taut")
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", http="httptools")
    server = uvicorn.Server(config)
    serving = asyncio.ensure_future(server.serve())
    async with asyncio.timeout(30):
        while not server.started:
            assert not serving.done(), serving
            await asyncio.sleep(0)
        port = server.servers[0].sockets[0].getsockname()[1]

        async def ask(*args: Any) -> tuple[int, Any]:
            return await asyncio.to_thread(ask_over_socket, port, *args)

        try:
            await client(ask)
        finally:
            server.should_exit = True
            await serving


def test_catalogue_and_orders(shop: Any) -> None:
    async def client(ask: Ask) -> None:
        assert await ask("GET", "/health") == (200, {"status": "ok"})
        status, page = await ask("GET", "/products?limit=3&offset=1")
        assert status == 200 and [product["id"] for product in page] == [2, 3, 4]
        status, before = await ask("GET", "/products/3")
        assert status == 200 and before == page[1]

        lines = [{"product_id": 3, "quantity": 2}, {"product_id": 1, "quantity": 1}]
        status, order = await ask("POST", "/orders", {"customer": "Ada", "lines": lines})
        assert status == 201 and order["status"] == "accepted"
        _, first = await ask("GET", "/products/1")
        assert order["total_cents"] == 2 * before["price_cents"] + first["price_cents"]
        assert await ask("GET", f"/orders/{order['id']}") == (200, order)
        _, after = await ask("GET", "/products/3")
        assert after["stock"] == before["stock"] - 2

    run_on_taut(serve(shop, client))


def test_refusals_leave_no_trace(shop: Any) -> None:
    async def client(ask: Ask) -> None:
        assert (await ask("GET", "/products/4711"))[0] == 404
        assert (await ask("GET", "/orders/1"))[0] == 404
        assert (await ask("GET", "/products/99999999999999999999"))[0] == 422
        assert (await ask("POST", "/orders", {"customer": "", "lines": []}))[0] == 422
        _, before = await ask("GET", "/products/3")
        lines = [{"product_id": 3, "quantity": 1}, {"product_id": 4711, "quantity": 1}]
        assert (await ask("POST", "/orders", {"customer": "Bob", "lines": lines}))[0] == 422
        assert (await ask("GET", "/products/3"))[1] == before
        assert (await ask("GET", "/orders/1"))[0] == 404

    run_on_taut(serve(shop, client))


def test_orders_at_once_all_take_stock(shop: Any) -> None:
    async def client(ask: Ask) -> None:
        _, before = await ask("GET", "/products/5")
        body = {"customer": "Cyd", "lines": [{"product_id": 5, "quantity": 1}]}
        answers = await asyncio.gather(*(ask("POST", "/orders", body) for _ in range(20)))
        assert [status for status, _ in answers] == [201] * 20
        assert len({order["id"] for _, order in answers}) == 20
        _, after = await ask("GET", "/products/5")
        assert after["stock"] == before["stock"] - 20

    run_on_taut(serve(shop, client))


def test_daily_report_blocks_and_answers(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    legacy = sys.modules["examples.shop.legacy"]
    slept: list[float] = []
    monkeypatch.setattr(legacy.time, "sleep", slept.append)

    async def client(ask: Ask) -> None:
        body = {"customer": "Dee", "lines": [{"product_id": 1, "quantity": 1}]}
        _, order = await ask("POST", "/orders", body)
        status, report = await ask("GET", "/reports/daily")
        assert status == 200 and report["orders"] == 1
        assert report["turnover_cents"] == order["total_cents"]
        assert report["turnover_euro"] == "2.64"
        assert slept == [legacy.SUPPLIER_DELAY_S]

    run_on_taut(serve(shop, client))
