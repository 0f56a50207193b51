"""Random sequences on TCP and Unix transports, with asyncio as the oracle (stateful_machine.py)."""

from __future__ import annotations

from stateful_base import bounded
from stateful_machine import StreamMachine


class TcpMachine(StreamMachine):
    kind = "tcp"


class UnixMachine(StreamMachine):
    kind = "unix"


TestTcp = TcpMachine.TestCase
TestTcp.settings = bounded(60, 15)
TestUnix = UnixMachine.TestCase
TestUnix.settings = bounded(60, 15)
