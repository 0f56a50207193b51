"""The servers under load: python servers.py KIND LOOP [CERT KEY] [FILE]. Prints "ready PORT", ends
on SIGTERM. The kinds tls_... need the PEM files of a certificate and its key, those with sendfile
the file that each connection gets."""

from __future__ import annotations

import asyncio
import functools
import importlib
import signal
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from loops import AIOFASTNET, LOOPS, MEMORY, factory

BODY = b"hello, world\n"


class EchoProtocol(asyncio.Protocol):
    __slots__ = ("write",)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.write = transport.write  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        del self.write


async def protocol(listener: socket.socket) -> None:
    await serve_tcp(listener, EchoProtocol)


async def streams(listener: socket.socket) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(262144):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, sock=listener, backlog=4096)
    _background.add(server)


async def sock(listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    listener.listen(4096)
    listener.setblocking(False)
    tasks = set()

    async def serve(client: socket.socket) -> None:
        with client:
            try:
                while data := await loop.sock_recv(client, 262144):
                    await loop.sock_sendall(client, data)
            except ConnectionError:
                pass

    async def accept() -> None:
        while True:
            client, _ = await loop.sock_accept(listener)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = loop.create_task(serve(client))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    tasks.add(loop.create_task(accept()))


async def serve_asgi(listener: socket.socket, app: Any) -> None:
    import uvicorn as package

    class Server(package.Server):
        def capture_signals(self) -> Any:  # main() ends this process itself
            import contextlib

            return contextlib.nullcontext()

    config = package.Config(
        app, http="httptools", ws="none", lifespan="off", access_log=False, log_level="warning"
    )
    server = Server(config)
    _background.add(asyncio.ensure_future(server.serve(sockets=[listener])))
    while not server.started:
        await asyncio.sleep(0.01)


async def uvicorn(listener: socket.socket) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(BODY))]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": BODY})

    await serve_asgi(listener, app)


async def fastapi(listener: socket.socket) -> None:
    """An endpoint that checks its parameters and answers with a model as JSON."""
    from fastapi_app import app

    await serve_asgi(listener, app)


async def aiohttp(listener: socket.socket) -> None:
    from aiohttp import web

    async def hello(request: web.Request) -> web.Response:
        return web.Response(body=BODY, content_type="text/plain")

    app = web.Application()
    app.router.add_get("/", hello)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.SockSite(runner, listener, backlog=4096).start()
    _background.add(runner)


async def websockets(listener: socket.socket) -> None:
    from websockets.asyncio.server import ServerConnection, serve

    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    _background.add(await serve(echo, sock=listener, compression=None))


class EchoDatagrams(asyncio.DatagramProtocol):
    __slots__ = ("sendto",)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.sendto = transport.sendto  # type: ignore[attr-defined]

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.sendto(data, addr)


async def udp(listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    listener.setblocking(False)
    _background.add(await loop.create_datagram_endpoint(EchoDatagrams, sock=listener))


class HttpProtocol(asyncio.Protocol):
    """One fixed response to each head; requests have no bodies here."""

    RESPONSE = (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n" % len(BODY)
    ) + BODY

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.write = transport.write  # type: ignore[attr-defined]
        self.left = b""

    def data_received(self, data: bytes) -> None:
        *heads, self.left = (self.left + data).split(b"\r\n\r\n")
        self.write(self.RESPONSE * len(heads))

    def connection_lost(self, exc: Exception | None) -> None:
        del self.write


class SiteProtocol(asyncio.Protocol):
    """Pages /0, /1, ...: each a kilobyte, with links to some others."""

    PAGES = 1000
    LINKS = 10

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.write = transport.write  # type: ignore[attr-defined]
        self.left = b""

    def data_received(self, data: bytes) -> None:
        *heads, self.left = (self.left + data).split(b"\r\n\r\n")
        for head in heads:
            self.write(site_page(int(head.split(b" ", 2)[1].strip(b"/") or b"0")))

    def connection_lost(self, exc: Exception | None) -> None:
        del self.write


@functools.cache
def site_page(number: int) -> bytes:
    """Whoever follows all links comes to every page, through the next one."""
    count = SiteProtocol.PAGES
    others = [number + 1, *(number * 7 + 31 * link for link in range(1, SiteProtocol.LINKS))]
    body = "".join(f'<a href="/{other % count}">page</a>\n' for other in others).ljust(1024)
    head = f"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {len(body)}\r\n\r\n"
    return (head + body).encode()


async def serve_tcp(listener: socket.socket, made: Callable[[], asyncio.Protocol]) -> None:
    loop = asyncio.get_running_loop()
    _background.add(await loop.create_server(made, sock=listener, backlog=4096))


async def http(listener: socket.socket) -> None:
    await serve_tcp(listener, HttpProtocol)


async def site(listener: socket.socket) -> None:
    await serve_tcp(listener, SiteProtocol)


class ClosingProtocol(asyncio.Protocol):
    """Closes as soon as the handshake is done."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


async def serve_tls(listener: socket.socket, made: Callable[[], asyncio.Protocol]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*sys.argv[3:5])
    loop = asyncio.get_running_loop()
    server = await loop.create_server(made, sock=listener, backlog=4096, ssl=context)
    _background.add(server)


async def tls_echo(listener: socket.socket) -> None:
    await serve_tls(listener, EchoProtocol)


async def tls_http(listener: socket.socket) -> None:
    await serve_tls(listener, HttpProtocol)


async def tls_handshake(listener: socket.socket) -> None:
    await serve_tls(listener, ClosingProtocol)


class FileProtocol(asyncio.Protocol):
    """Sends the file and closes."""

    def connection_made(self, transport: Any) -> None:
        self.task = asyncio.ensure_future(self.send(transport))

    async def send(self, transport: Any) -> None:
        with open(sys.argv[-1], "rb") as file:
            await asyncio.get_running_loop().sendfile(transport, file)
        transport.close()


async def sendfile(listener: socket.socket) -> None:
    await serve_tcp(listener, FileProtocol)


async def sock_sendfile(listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    listener.listen(4096)
    listener.setblocking(False)

    async def serve() -> None:
        while True:
            client, _ = await loop.sock_accept(listener)
            with client, open(sys.argv[-1], "rb") as file:
                await loop.sock_sendfile(client, file)

    _background.add(loop.create_task(serve()))


async def tls_sendfile(listener: socket.socket) -> None:
    await serve_tls(listener, FileProtocol)


PROGRAMS = (uvicorn, fastapi, aiohttp, websockets)
PEERS = (http, site)  # of the programs that are clients
FILE_KINDS = (sendfile, sock_sendfile, tls_sendfile)
TLS_KINDS = (tls_echo, tls_http, tls_handshake)
KINDS: dict[str, Callable[[socket.socket], Awaitable[None]]] = {
    kind.__name__: kind
    for kind in (protocol, streams, sock, udp, *PROGRAMS, *PEERS, *TLS_KINDS, *FILE_KINDS)
}
PACKAGES = {
    "uvicorn": "uvicorn",
    "fastapi": "fastapi_app",
    "aiohttp": "aiohttp.web",
    "websockets": "websockets.asyncio.server",
}
_background: set[Any] = set()


async def main(kind: str) -> None:
    # With the protocol given: asyncio turns Nagle's algorithm off only where it reads TCP there.
    over = (
        (socket.SOCK_DGRAM, socket.IPPROTO_UDP)
        if kind == "udp"
        else (socket.SOCK_STREAM, socket.IPPROTO_TCP)
    )
    listener = socket.socket(socket.AF_INET, *over)
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]  # asked now: rloop takes the socket away
    await KINDS[kind](listener)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    print(f"ready {port}", flush=True)
    await ended.wait()


if __name__ == "__main__":
    names = [*LOOPS, AIOFASTNET, MEMORY]
    if not 3 <= len(sys.argv) <= 6 or sys.argv[1] not in KINDS or sys.argv[2] not in names:
        sys.exit(f"usage: servers.py {'|'.join(KINDS)} {'|'.join(names)} [CERT KEY] [FILE]")
    if sys.argv[1] in PACKAGES:  # before the loop runs: importing would stall it
        importlib.import_module(PACKAGES[sys.argv[1]])
    with asyncio.Runner(loop_factory=factory(sys.argv[2])) as runner:
        runner.run(main(sys.argv[1]))
