"""Forgotten transports, servers and loops: a ResourceWarning each, which says where it was made."""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
import warnings
from pathlib import Path
from typing import Any

import loops
import pytest
from loops import Factory, ok, script


def forgotten(factory: Factory, debug: bool, forget: Any) -> list[str]:
    """Texts of the ResourceWarnings of what `forget(loop)` leaves behind."""
    loop = factory()
    loop.set_debug(debug)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loop.run_until_complete(forget(loop))
        loop.close()
        del loop
        gc.collect()
        texts = [str(one.message) for one in caught]
        caught.clear()  # they refer to their objects
        gc.collect()
    return texts + [str(one.message) for one in caught]


async def forget_transport(loop: asyncio.AbstractEventLoop) -> None:
    one, two = socket.socketpair()
    transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, one)
    transport.pause_reading()  # type: ignore[attr-defined]
    two.close()


async def forget_server(loop: asyncio.AbstractEventLoop) -> None:
    await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)


async def close_the_sockets_only(loop: asyncio.AbstractEventLoop) -> None:
    with socket.socket() as sock:
        await loop.create_server(asyncio.Protocol, sock=sock, start_serving=False)


def test_transport(factory: Factory) -> None:
    (text,) = [t for t in forgotten(factory, False, forget_transport) if "transport" in t]
    assert text.startswith("unclosed transport <")
    assert "\n" not in text


def test_transport_in_debug_mode() -> None:
    (text,) = forgotten(loops.factory("taut"), True, forget_transport)
    assert text.startswith("unclosed transport <Transport")
    assert "created at (most recent call last):\n" in text
    assert "in forget_transport\n    transport, _ = await loop.connect_accepted_socket" in text


@pytest.mark.parametrize("debug", [False, True])
def test_server(debug: bool) -> None:
    # asyncio's says nothing of the server, only of its sockets.
    texts = forgotten(loops.factory("taut"), debug, forget_server)
    (text,) = [t for t in texts if t.startswith("unclosed server <Server sockets=(<")]
    assert ("in forget_server\n    await loop.create_server" in text) == debug
    assert len([t for t in texts if t.startswith("unclosed <socket.socket")]) == 1


def test_no_warning_for_a_server_whose_sockets_are_closed(factory: Factory) -> None:
    assert forgotten(factory, False, close_the_sockets_only) == []


@pytest.mark.parametrize("debug", [False, True])
def test_loop(loop_name: str, debug: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1" if debug else "")
    if sys.flags.dev_mode:
        pytest.skip("debug mode is always on")
    with pytest.warns(ResourceWarning, match="unclosed event loop") as caught:
        loops.factory(loop_name)()
        gc.collect()
    (text,) = [str(one.message) for one in caught]
    if loop_name == "taut":
        assert ("in test_loop\n    loops.factory(loop_name)()" in text) == debug


def test_tracemalloc_shows_where(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
import asyncio, gc, socket, tracemalloc, loops, taut
tracemalloc.start(10)
async def main():
    loop = asyncio.get_running_loop()
    one, two = socket.socketpair()
    transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, one)
    transport.pause_reading()
loop = loops.factory("taut")()
loop.run_until_complete(main())
loop.close()
gc.collect()
""")
    done = loops.subprocess.run(
        [sys.executable, "-W", "always", str(program)],
        capture_output=True, text=True, timeout=40,
    )
    ok(done)
    assert "ResourceWarning: unclosed transport <Transport" in done.stderr
    below = done.stderr.split("unclosed transport <Transport")[1]
    assert "Object allocated at (most recent call last):" in below
    assert "await loop.connect_accepted_socket(asyncio.Protocol, one)" in below


def test_warnings_as_errors_reach_the_hook(loop_name: str) -> None:
    out = ok(script(loop_name, """
import warnings
warnings.simplefilter("error")
sys.unraisablehook = lambda info: print(str(info.exc_value)[:18])
async def main():
    one, two = socket.socketpair()
    transport, _ = await asyncio.get_running_loop().connect_accepted_socket(asyncio.Protocol, one)
    transport.pause_reading()
    two.close()
loop = new_loop()
loop.run_until_complete(main())
loop.close()
gc.collect()
"""))
    assert "unclosed transport\n" in out
