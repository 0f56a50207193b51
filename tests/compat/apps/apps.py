"""What the tests of real programs share: the servers they need, and running on both loops.

Each server is looked for at the address below, or at that of the environment variable:

| variable | default | one way to start it |
|---|---|---|
| TEST_DATABASE_URL | postgres://postgres@127.0.0.1:5432/test | see SERVERS |
| TEST_REDIS_URL | redis://127.0.0.1:6379/15 | |
| TEST_MYSQL_URL | mysql://root@127.0.0.1:3306/test | |
| TEST_AMQP_URL | amqp://guest:guest@127.0.0.1:5672/ | |
| TEST_NATS_URL | nats://127.0.0.1:4222 | |

Without it the tests that need it are skipped, and with CI=true they fail.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Coroutine
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pytest

import loops

T = TypeVar("T")

SERVERS = {
    "postgres": (
        "TEST_DATABASE_URL",
        "postgres://postgres@127.0.0.1:5432/test",
        "docker run -e POSTGRES_HOST_AUTH_METHOD=trust -e POSTGRES_DB=test -p 5432:5432 postgres",
    ),
    "redis": (
        "TEST_REDIS_URL",
        "redis://127.0.0.1:6379/15",
        "redis-server --port 6379, or docker run -p 6379:6379 redis",
    ),
    "mysql": (
        "TEST_MYSQL_URL",
        "mysql://root@127.0.0.1:3306/test",
        "docker run -e MARIADB_ALLOW_EMPTY_ROOT_PASSWORD=1 -e MARIADB_DATABASE=test "
        "-p 3306:3306 mariadb",
    ),
    "amqp": (
        "TEST_AMQP_URL",
        "amqp://guest:guest@127.0.0.1:5672/",
        "rabbitmq-server, or docker run -p 5672:5672 rabbitmq",
    ),
    "nats": (
        "TEST_NATS_URL",
        "nats://127.0.0.1:4222",
        "nats-server -p 4222, or docker run -p 4222:4222 nats",
    ),
}


def server(name: str) -> str:
    """The server's URL, when something listens there; else skips the test, in CI fails it."""
    variable, default, start = SERVERS[name]
    url = os.environ.get(variable, default)
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 0), timeout=5).close()
    except OSError as exc:
        reason = f"no server at {url} ({exc}); start one: {start}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return url


def run(make: loops.Factory, main: Coroutine[Any, Any, T]) -> T:
    """The coroutine's result on a new loop: within the deadline, nothing left open.

    The loop's exception handler must not have been called, and every fd that was opened must be
    closed at the end.
    """
    complaints: list[dict[str, Any]] = []

    async def watched() -> T:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, type(kind))
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        return await main

    kind = make()
    kind.close()
    before = loops.fd_count()
    result = loops.run(make, watched())
    assert complaints == []
    assert loops.fd_count() <= before
    return result
