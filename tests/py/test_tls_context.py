"""taut.ssl_context(): trust stores and keys are read off the loop, and the system's once."""

from __future__ import annotations

import asyncio
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest

import taut
from loops import Recorder, run, until
from taut import _tls
from tls_certs import Certs


def made_in(monkeypatch: pytest.MonkeyPatch) -> list[threading.Thread]:
    """Every thread that makes a default context from now on."""
    threads: list[threading.Thread] = []
    original = ssl.create_default_context

    def spy(*args: Any, **kwargs: Any) -> ssl.SSLContext:
        threads.append(threading.current_thread())
        return original(*args, **kwargs)

    monkeypatch.setattr(ssl, "create_default_context", spy)
    monkeypatch.setattr(_tls, "_defaults", {})
    return threads


def test_the_default_is_made_once_and_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = made_in(monkeypatch)

    async def main() -> None:
        first, second = await asyncio.gather(taut.ssl_context(), taut.ssl_context())
        assert first is second and first.check_hostname
        assert first.verify_mode is ssl.CERT_REQUIRED

    run(taut.new_event_loop, main())
    assert len(threads) == 1 and threads[0] is not threading.main_thread()


def test_ssl_true_uses_it(monkeypatch: pytest.MonkeyPatch, certs: Certs) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", certs.path("ca"))
    threads = made_in(monkeypatch)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Recorder, "127.0.0.1", 0, ssl=certs.server())
        host, port = server.sockets[0].getsockname()
        for _ in range(3):
            transport, protocol = await loop.create_connection(
                Recorder, host, port, ssl=True, server_hostname="localhost"
            )
            assert transport.get_extra_info("sslcontext") is await taut.ssl_context()
            transport.close()
            await until(lambda protocol=protocol: protocol.lost, "the end")
        server.close()

    run(taut.new_event_loop, main())
    assert len(threads) == 1 and threads[0] is not threading.main_thread()


def test_a_servers_context(certs: Certs) -> None:
    async def main() -> None:
        context = await taut.ssl_context(
            ssl.Purpose.CLIENT_AUTH, certfile=certs.path("localhost"),
            keyfile=certs.path("localhost", "key"),
        )
        client = await taut.ssl_context(cafile=certs.path("ca"))
        assert client is not await taut.ssl_context()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Recorder, "127.0.0.1", 0, ssl=context)
        host, port = server.sockets[0].getsockname()
        transport, protocol = await loop.create_connection(
            Recorder, host, port, ssl=client, server_hostname="localhost"
        )
        assert transport.get_extra_info("peercert")["subject"]
        transport.close()
        await until(lambda: protocol.lost, "the end")
        server.close()

    run(taut.new_event_loop, main())


def test_files_that_are_missing_or_wrong(tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(FileNotFoundError):
            await taut.ssl_context(cafile=str(tmp_path / "none.pem"))
        (tmp_path / "wrong.pem").write_text("not a certificate")
        with pytest.raises(ssl.SSLError):
            await taut.ssl_context(certfile=str(tmp_path / "wrong.pem"))

    run(taut.new_event_loop, main())
