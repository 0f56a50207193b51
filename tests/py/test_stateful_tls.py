"""Random sequences on TLS transports, with asyncio as the oracle (stateful_machine.py)."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule
from stateful_base import bounded
from stateful_machine import StreamMachine
from tls_certs import Certs

#: version -> server side -> context
CONTEXTS: dict[str, dict[bool, ssl.SSLContext]] = {}


@pytest.fixture(autouse=True, scope="module")
def _contexts(certs: Certs) -> None:
    for version in ("1.2", "1.3"):
        server, client = certs.server(version=version), certs.client(version=version)
        server.num_tickets = 0  # who closes without having read them resets
        CONTEXTS[version] = {True: server, False: client}


class TlsMachine(StreamMachine):
    def chosen(self, choice: int) -> tuple[str, Any]:
        return ("client", "server")[choice % 2], CONTEXTS[("1.3", "1.2")[choice // 2]]


class StartTlsMachine(StreamMachine):
    """A plain connection that may be made one over TLS, once and while all is quiet."""

    def chosen(self, choice: int) -> tuple[str, Any]:
        return "tcp", CONTEXTS[("1.3", "1.2")[choice // 2]]

    @rule(server_side=st.booleans())
    def start_tls(self, server_side: bool) -> None:
        world, peer = self.oracle, self.oracle.peer
        quiet = (
            not (world.tls or peer.shut or peer.end or world.transport.is_closing())
            and peer.reading
            and world.transport.is_reading()
            and not world.eof_written
        )
        if quiet:
            self.each(lambda each: each.start_tls(server_side))


TestStartTls = StartTlsMachine.TestCase
TestStartTls.settings = bounded(40, 12)
TestTls = TlsMachine.TestCase
TestTls.settings = bounded(60, 15)
