"""What other people's test suites have found (tests/compat/suites.py)."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from pathlib import Path

import pytest
from loops import Factory, run

import taut


def test_start_tls_on_a_closed_transport_gives_none(factory: Factory) -> None:
    """aiohttp: a connection that a proxy has closed meanwhile. taut waited for ever."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            transport, protocol = await loop.create_connection(
                asyncio.Protocol, *listener.getsockname()
            )
            transport.close()
            context = ssl.create_default_context()
            made = loop.start_tls(transport, protocol, context, server_hostname="localhost")
            assert await made is None

    run(factory, main())


@pytest.mark.parametrize("when", [0, 5, 2.5])
def test_a_timer_gives_the_time_that_it_was_given(factory: Factory, when: float) -> None:
    """aiohttp rounds its deadlines to whole seconds, and asks for them again."""
    loop = factory()
    handle = loop.call_at(when, print)
    assert handle.when() == when and type(handle.when()) is type(when)
    handle.cancel()
    loop.close()


def test_files_of_sockets_are_looked_at_where_os_stat_is_forbidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """aiohttp's suite runs under blockbuster, which forbids blocking calls but for asyncio's."""
    path = str(tmp_path / "socket")

    def forbidden(*args: object, **kwargs: object) -> None:
        raise AssertionError("a blocking call")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stale:
            stale.bind(path + "2")
        for name in "stat", "remove", "unlink":
            monkeypatch.setattr(os, name, forbidden)
        server = await loop.create_unix_server(asyncio.Protocol, path)
        server.close()
        transport, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, path + "2", family=socket.AF_UNIX
        )
        transport.close()

    run(taut.new_event_loop, main())
