"""The load of the websockets row: python wsload.py PORT PID SECONDS CONNECTIONS SIZE. Each
connection has one message in flight. Plain sockets and frames made beforehand, so that the client
is not what takes the time; every answer is compared. Prints what loadgen prints, as JSON."""

from __future__ import annotations

import base64
import json
import os
import select
import socket
import sys
import time

from fetch import cpu_seconds

WARM_UP_S = 0.2


def connect(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    key = base64.b64encode(os.urandom(16)).decode()
    sock.sendall(
        f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
        "Sec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        got = sock.recv(1)  # no frame comes before one was sent
        if not got:
            sys.exit(f"the handshake was refused: {head!r}")
        head += got
    if not head.startswith(b"HTTP/1.1 101"):
        sys.exit(f"the handshake was refused: {head!r}")
    return sock


def frames(size: int) -> tuple[bytes, bytes]:
    """A text message as a client sends it, masked, and as a server does."""
    text = (b"abcdefghijklmnopqrstuvw" * (size // 23 + 1))[:size]
    mask = b"\x11\x22\x33\x44"
    masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(text))
    if size < 126:
        return bytes([0x81, 0x80 | size]) + mask + masked, bytes([0x81, size]) + text
    length = size.to_bytes(2, "big")
    return b"\x81\xfe" + length + mask + masked, b"\x81\x7e" + length + text


class Load:
    def __init__(self, port: int, connections: int, size: int) -> None:
        self.request, self.answer = frames(size)
        self.poll = select.epoll()
        self.socks: dict[int, socket.socket] = {}
        self.pieces: dict[int, bytes] = {}
        for _ in range(connections):
            sock = connect(port)
            self.socks[sock.fileno()] = sock
            self.poll.register(sock, select.EPOLLIN)
            sock.sendall(self.request)

    def run(self, seconds: float) -> int:
        """Drive the connections; the number of answers."""
        done = 0
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            events = self.poll.poll(5)
            if not events:
                sys.exit("no answer for five seconds")
            for fd, _ in events:
                got = self.pieces.pop(fd, b"") + self.socks[fd].recv(65536)
                if got == self.answer:
                    done += 1
                    self.socks[fd].sendall(self.request)
                elif got and self.answer.startswith(got):
                    self.pieces[fd] = got
                else:
                    sys.exit(f"not the answer: {got[:100]!r}")
        return done


def main(port: int, pid: int, seconds: float, connections: int, size: int) -> None:
    load = Load(port, connections, size)
    load.run(min(WARM_UP_S, seconds))
    cpu, begin = cpu_seconds(pid), time.perf_counter()
    done = load.run(seconds)
    passed, cpu = time.perf_counter() - begin, cpu_seconds(pid) - cpu
    print(json.dumps({"rps": done / passed, "cpu_us": cpu / done * 1e6, "requests": done}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), *map(int, sys.argv[4:6]))
