"""Clients that keep a server busy: HTTP/1.1 over connections that stay open, and WebSockets."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass, field
from typing import Any

import websockets.asyncio.client
import websockets.exceptions

BODY = os.urandom(50_000)


class NoAnswer(Exception):
    """The server closed the connection before the first byte of an answer."""


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body of the next answer. Raises NoAnswer; IncompleteReadError when it is cut."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as exc:
        if exc.partial:
            raise
        raise NoAnswer from None
    except ConnectionResetError:
        raise NoAnswer from None
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
    return int(head.split()[1]), await reader.readexactly(int(fields[b"content-length"]))


def request(method: str, path: str, body: bytes = b"") -> bytes:
    """The bytes of a request."""
    head = f"{method} {path} HTTP/1.1\r\nHost: site\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def get(port: int, path: str = "/") -> dict[str, Any]:
    """What a page says, over a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request("GET", path))
        status, body = await answer(reader)
        assert status == 200, (status, body)
        found: dict[str, Any] = json.loads(body)
        return found
    finally:
        writer.close()


@dataclass
class Load:
    """What the clients have seen."""

    port: int
    #: Set to make clients leave, of servers that would wait for them.
    stop_chatting: bool = False
    stop_browsing: bool = False
    answers: int = 0
    messages: int = 0
    broken: list[str] = field(default_factory=list)
    loops: set[str] = field(default_factory=set)
    pids: set[int] = field(default_factory=set)

    async def browse(self) -> None:
        """Asks and posts by turns, over one connection after the other, until none is to be had."""
        before = -1
        while self.answers > before:
            before = self.answers
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                return
            await self._browse(reader, writer)

    async def _browse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            for _ in range(20):
                for ask, body in (("GET", b""), ("POST", BODY)):
                    if self.stop_browsing:
                        return
                    writer.write(request(ask, "/", body))
                    status, got = await answer(reader)
                    if status == 503:  # "shutting down": an answer, too
                        return
                    if status != 200 or (ask == "POST" and got != body):
                        self.broken.append(f"{ask}: {status}, {len(got)} bytes")
                    elif ask == "GET":
                        about = json.loads(got)
                        self.loops.add(about["loop"])
                        self.pids.add(about["pid"])
                    self.answers += 1
        except NoAnswer:
            pass
        except Exception as exc:
            self.broken.append(repr(exc))
        finally:
            writer.close()

    async def chat(self) -> None:
        """Sends and hears over a WebSocket until the server closes it."""
        try:
            async with websockets.asyncio.client.connect(f"ws://127.0.0.1:{self.port}/ws") as ws:
                while not self.stop_chatting:
                    await ws.send(f"message {self.messages}")
                    if not str(await ws.recv()).startswith("MESSAGE "):
                        self.broken.append("not in capitals")
                    self.messages += 1
        except (websockets.exceptions.ConnectionClosed, OSError):
            pass
        except Exception as exc:
            self.broken.append(repr(exc))
