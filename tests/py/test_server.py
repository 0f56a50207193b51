"""Servers: start, stop, accept, wait_closed, clients, errors of factories, out of descriptors."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import socket
import ssl
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
from loops import Factory, Faults, Recorder, cpu_seconds, fd_count, run, serve, until


class Keeps(Recorder):
    """Lets each instance be found again."""

    made: list[Keeps]

    def __init__(self) -> None:
        super().__init__()
        self.made.append(self)


def keeper() -> type[Keeps]:
    """A protocol class with a list of its own."""
    return type("Keeper", (Keeps,), {"made": []})


def is_eof(sock: socket.socket) -> bool:
    """Whether the peer has closed a non-blocking socket that it sent nothing to."""
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False


async def connect(address: Any) -> socket.socket:
    """A connected, non-blocking socket."""
    sock = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, address)
    return sock


def test_serving_state(factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server, address = await serve(keeper(), start_serving=False)
        assert isinstance(server, asyncio.AbstractServer)
        assert not server.is_serving()
        assert server.get_loop() is loop
        assert len(server.sockets) == 1
        assert type(server.sockets[0]).__name__ == "TransportSocket"
        assert repr(server).startswith("<Server sockets=(")
        await server.start_serving()
        await server.start_serving()
        assert server.is_serving()
        (await connect(address)).close()
        server.close()
        server.close()
        assert not server.is_serving()
        assert len(server.sockets) == 0
        await server.wait_closed()
        with pytest.raises(ConnectionRefusedError):
            await connect(address)

    run(factory, main())


def test_every_connection_gets_its_protocol(factory: Factory) -> None:
    async def main() -> None:
        protocol = keeper()
        server, address = await serve(protocol)
        clients = [await connect(address) for _ in range(50)]
        await until(lambda: sum(len(p.calls) for p in protocol.made) == 50, "50 connections")
        ports = {client.getsockname()[1] for client in clients}
        assert {p.transport.get_extra_info("peername")[1] for p in protocol.made} == ports
        for client in clients:
            client.close()
        await until(lambda: all(p.lost for p in protocol.made), "their ends")
        server.close()
        await server.wait_closed()

    run(factory, main())


def test_unix_server_and_its_peernames(factory: Factory, tmp_path: Path) -> None:
    async def main() -> None:
        protocol = keeper()
        path = str(tmp_path / "sock")
        server = await asyncio.get_running_loop().create_unix_server(protocol, path)
        client = await connect(path)
        await until(lambda: protocol.made and protocol.made[0].calls, "the connection")
        transport = protocol.made[0].transport
        assert transport.get_extra_info("sockname") == path
        assert transport.get_extra_info("peername") == ""
        client.close()
        await until(lambda: protocol.made[0].lost, "the end")
        server.close()
        await server.wait_closed()

    run(factory, main())


def test_ipv6_names(factory: Factory) -> None:
    async def main() -> None:
        protocol = keeper()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(protocol, "::1", 0)
        address = server.sockets[0].getsockname()
        sock = socket.socket(socket.AF_INET6)
        sock.setblocking(False)
        await loop.sock_connect(sock, address)
        await until(lambda: protocol.made and protocol.made[0].calls, "the connection")
        transport = protocol.made[0].transport
        assert transport.get_extra_info("sockname") == address
        assert transport.get_extra_info("peername") == sock.getsockname()
        sock.close()
        await until(lambda: protocol.made[0].lost, "the end")
        server.close()
        await server.wait_closed()

    if not socket.has_ipv6 or not os.path.exists("/proc/net/if_inet6"):
        pytest.skip("no IPv6")
    run(factory, main())


def test_wait_closed_waits_as_the_running_python_has_it(factory: Factory) -> None:
    async def main() -> None:
        protocol = keeper()
        server, address = await serve(protocol)
        client = await connect(address)
        await until(lambda: protocol.made and protocol.made[0].calls, "the connection")
        before = asyncio.ensure_future(server.wait_closed())
        await asyncio.sleep(0)
        assert not before.done()
        server.close()
        after = asyncio.ensure_future(server.wait_closed())
        for _ in range(3):
            await asyncio.sleep(0)
        assert not before.done()
        assert after.done() == (sys.version_info < (3, 12))
        client.close()
        await asyncio.gather(before, after)
        assert protocol.made[0].lost == [None]

    run(factory, main())


def test_serve_forever(factory: Factory) -> None:
    async def main() -> None:
        server, address = await serve(keeper(), start_serving=False)
        task = asyncio.ensure_future(server.serve_forever())
        await until(server.is_serving, "serving")
        with pytest.raises(RuntimeError, match="already being awaited"):
            await server.serve_forever()
        (await connect(address)).close()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not server.is_serving()
        with pytest.raises(RuntimeError, match="is closed"):
            await server.serve_forever()

    run(factory, main())


def test_close_ends_serve_forever(factory: Factory) -> None:
    async def main() -> None:
        server, _ = await serve(keeper())
        task = asyncio.ensure_future(server.serve_forever())
        await asyncio.sleep(0)
        server.close()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(factory, main())


def test_async_with(factory: Factory) -> None:
    async def main() -> None:
        server, _ = await serve(keeper())
        async with server as same:
            assert same is server and server.is_serving()
        assert not server.is_serving()

    run(factory, main())


@pytest.mark.parametrize("how", ["close_clients", "abort_clients"])
def test_closing_the_clients(factory: Factory, loop_name: str, how: str) -> None:
    if loop_name == "asyncio" and sys.version_info < (3, 13):
        pytest.skip("asyncio has it from 3.13 on")

    async def main() -> None:
        protocol = keeper()
        server, address = await serve(protocol)
        clients = [await connect(address) for _ in range(3)]
        await until(lambda: sum(len(p.calls) for p in protocol.made) == 3, "3 connections")
        getattr(server, how)()
        await until(lambda: all(p.lost == [None] for p in protocol.made), "their ends")
        for client in clients:
            client.close()
        server.close()
        await server.wait_closed()

    run(factory, main())


@pytest.mark.parametrize("debug", [False, True])
def test_a_factory_that_raises(factory: Factory, debug: bool) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        # The exceptions are not kept: asyncio's would keep the accepted socket open.
        messages: list[str] = []
        loop.set_exception_handler(lambda _, context: messages.append(context["message"]))
        calls: list[int] = []

        def make() -> asyncio.Protocol:
            calls.append(1)
            raise ZeroDivisionError

        server, address = await serve(make)
        client = await connect(address)
        await until(lambda: gc.collect() + 1 and is_eof(client), "the EOF")
        client.close()
        assert len(calls) == 1
        expected = ["Error on transport creation for incoming connection"] if debug else []
        assert messages == expected
        server.close()
        await server.wait_closed()

    run(factory, main(), debug=debug)


def test_closing_the_server_in_the_factory(factory: Factory, loop_name: str) -> None:
    if loop_name == "asyncio":
        pytest.skip("asyncio loses the connection to an AssertionError of its own")

    async def main() -> None:
        servers: list[asyncio.Server] = []
        protocol = keeper()

        def make() -> Keeps:
            servers[0].close()
            return protocol()

        server, address = await serve(make)
        servers.append(server)
        client = await connect(address)
        await until(lambda: protocol.made and protocol.made[0].calls, "the connection")
        client.close()
        await until(lambda: protocol.made[0].lost, "the end")
        await server.wait_closed()

    run(factory, main())


def test_a_dropped_server_goes_on_until_the_loop_closes(factory: Factory) -> None:
    async def main() -> Any:
        protocol = keeper()
        server, address = await serve(protocol)
        ref = weakref.ref(server)
        del server
        gc.collect()
        (await connect(address)).close()
        await until(lambda: protocol.made and protocol.made[0].lost, "a connection")
        return ref

    gc.collect()
    fds = fd_count()
    ref = run(factory, main())
    gc.collect()
    assert ref() is None
    assert fd_count() == fds


def test_out_of_descriptors(factory: Factory, loop_name: str) -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        faults = Faults(loop)
        protocol = keeper()
        server, address = await serve(protocol)
        clients = [socket.socket() for _ in range(2)]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        spare = os.dup(0)
        resource.setrlimit(resource.RLIMIT_NOFILE, (spare, hard))
        try:
            for client in clients:
                client.setblocking(False)
                await loop.sock_connect(client, address)
            await until(lambda: faults.contexts, "the report")
            cpu = cpu_seconds()
            assert protocol.made == []
            context = faults.contexts[0]
            assert context["message"] == "socket.accept() out of system resource"
            assert context["exception"].errno == 24
            assert type(context["socket"]).__name__ == "TransportSocket"
        finally:
            os.close(spare)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await until(lambda: len(protocol.made) == 2, "the recovery")
        cpu = cpu_seconds() - cpu
        for client in clients:
            client.close()
        await until(lambda: all(p.lost for p in protocol.made), "the ends")
        server.close()
        await server.wait_closed()
        return cpu

    # Backing off means that the second until the recovery is not spent accepting in vain; the
    # polling of this test itself takes some of it.
    assert run(factory, main()) < 0.5


def test_tls_server_over_the_standard_library(
    factory: Factory, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    serving, asking = tls

    async def main() -> None:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write((await reader.readline()).upper())
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=serving)
        address = server.sockets[0].getsockname()
        for _ in range(3):
            reader, writer = await asyncio.open_connection(
                *address, ssl=asking, server_hostname="localhost"
            )
            assert writer.get_extra_info("ssl_object") is not None
            writer.write(b"over tls\n")
            assert await reader.read() == b"OVER TLS\n"
            writer.close()
            await writer.wait_closed()
        # A client that does not speak TLS costs only itself.
        client = await connect(address)
        await asyncio.get_running_loop().sock_sendall(client, b"GET / HTTP/1.1\r\n\r\n")
        while await asyncio.get_running_loop().sock_recv(client, 1000):
            pass
        client.close()
        server.close()
        await server.wait_closed()

    run(factory, main())


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Contexts for a server on localhost and a client that trusts it."""
    import shutil
    import subprocess

    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl command to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
         "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True,
    )
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(cert, key)
    asking = ssl.create_default_context(cafile=str(cert))
    return serving, asking
