"""The client of the sendfile part: python fetch.py PORT PID BYTES [--tls]. Reads one connection to
its end; prints the seconds that it took and the CPU seconds of the server as JSON."""

from __future__ import annotations

import json
import socket
import ssl
import sys
import time

BLOCK = 1 << 20


def cpu_seconds(pid: int) -> float:
    """CPU time of another process: its clock's number, see clock_getcpuclockid(3)."""
    return time.clock_gettime((~pid << 3) | 2)


def main(port: int, pid: int, expected: int, tls: bool) -> None:
    block = bytearray(BLOCK)
    size = 0
    sock: socket.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    context = ssl._create_unverified_context()
    cpu = cpu_seconds(pid)
    begin = time.perf_counter()
    sock.connect(("127.0.0.1", port))
    if tls:
        sock = context.wrap_socket(sock)
    while got := sock.recv_into(block):
        size += got
    seconds = time.perf_counter() - begin
    cpu = cpu_seconds(pid) - cpu
    if size != expected:
        sys.exit(f"{size} bytes came, not {expected}")
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:] == ["--tls"])
