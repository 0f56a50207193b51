"""Which way a TLS connection takes to OpenSSL, and that the other one passes the same tests."""

from __future__ import annotations

import asyncio
import os
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import taut
from loops import Recorder, run, until
from programs import clean_env
from tls_certs import Certs
from tls_peers import attach, tcp_pair, wrap

HERE = Path(__file__).parent
SAME = ["basic", "close", "data", "handshake", "sendfile", "start", "verify"]


class Wrapping(ssl.SSLContext):
    """A context that lets another one do the work, as truststore's does."""

    inner: ssl.SSLContext

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        return self.inner.wrap_bio(*args, **kwargs)


def path_of(context: ssl.SSLContext, certs: Certs) -> str:
    seen: list[str] = []

    async def main() -> None:
        protocol = Recorder()
        ours, theirs = tcp_pair()
        peer_made = asyncio.create_task(asyncio.to_thread(wrap, theirs, certs.server(), True))
        transport = await attach("client", ours, protocol, context)
        peer = await peer_made
        seen.append(transport.get_extra_info("tls_path"))
        transport.write(b"x" * 100_000)
        await asyncio.to_thread(peer.recv, 1)
        transport.abort()
        peer.close()
        await until(lambda: protocol.lost, "the end")

    run(taut.new_event_loop, main())
    return seen[0]


@pytest.mark.skipif("TAUT_TLS" in os.environ, reason="the environment has chosen")
def test_an_ordinary_context_is_reached_directly(certs: Certs) -> None:
    assert path_of(certs.client(), certs) == "direct"


def test_a_context_that_wraps_another_goes_through_memory(certs: Certs) -> None:
    context = Wrapping(ssl.PROTOCOL_TLS_CLIENT)
    context.inner = certs.client()
    assert path_of(context, certs) == "memory"


@pytest.mark.skipif("TAUT_TLS" in os.environ, reason="this is that run")
def test_the_same_tests_pass_through_memory() -> None:
    files = [str(HERE / f"test_tls_{name}.py") for name in SAME]
    env = {**clean_env(TAUT_TLS="memory", TAUT_TEST_LOOPS="taut")}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--tb=short", *files]
    done = subprocess.run(
        command, cwd=HERE.parent.parent, env=env, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
