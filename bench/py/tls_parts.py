"""The parts of the benchmark over TLS: requests, handshakes and idle connections, each beside a
bare server that calls OpenSSL directly and, where it is installed, aiofastnet on uvloop."""

from __future__ import annotations

import importlib
import importlib.metadata
import shutil
import ssl
import subprocess
from collections.abc import Sequence
from pathlib import Path

from cells import Cell, run_cells
from loops import AIOFASTNET, over_tls
from memory_parts import measure_idle
from plan import Part, Plan
from report import Result

IN_FLIGHT = 16  # handshakes


def left_out(peers: Path) -> str | None:
    """Why there is no TLS here."""
    if not (peers / "tls_epoll").exists():
        return "OpenSSL's headers are not installed (libssl-dev)"
    if shutil.which("openssl") is None:
        return "the command openssl is not installed"
    return None


def describe(plan: Plan) -> str:
    """Which OpenSSL serves; the figures of two are not comparable."""
    command = [str(plan.peers / "tls_epoll"), "--version"]
    bare = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    key = {"ec": "P-256", "rsa": "RSA-2048"}[plan.key_kind]
    text = f"{ssl.OPENSSL_VERSION} in Python, {bare} in the C server; a certificate with {key}."
    if AIOFASTNET not in over_tls(plan.loops):
        return text + " aiofastnet was not compared."
    libraries = importlib.import_module(AIOFASTNET).OPENSSL_DYN_LIBS
    engine = "OpenSSL directly" if libraries else "the ssl module"
    version = importlib.metadata.version(AIOFASTNET)
    return text + f" aiofastnet {version} on uvloop, calling {engine}."


OPEN = (
    *(Cell("tls_echo", count, size) for size in (1024, 102400) for count in (10, 200)),
    Cell("tls_http", 32, 0),
)
HANDSHAKES = (Cell("tls_handshake", IN_FLIGHT, 0),)


def measure(plan: Plan, result: Result, cells: Sequence[Cell]) -> Result:
    result.add(describe(plan))
    run_cells(plan, result, cells)
    result.add(f"Negotiated: {', '.join(sorted(set(result.data.get('negotiated', []))))}.")
    result.data["key"] = plan.key_kind
    return result


def run_tls(plan: Plan) -> Result:
    result = Result("tls", "Over TLS: server CPU per request on open connections")
    return measure(plan, result, OPEN)


def run_tls_handshake(plan: Plan) -> Result:
    """Connect, a full handshake, close; no session is resumed."""
    return measure(plan, Result("tls_handshake", "TLS: server CPU per full handshake"), HANDSHAKES)


def run_tls_idle(plan: Plan) -> Result:
    """Memory of TLS connections that each echoed once and then do nothing."""
    count = plan.tls_idle
    result = Result("tls_idle", f"{count:,} idle TLS connections: resident memory of each")
    result.add(describe(plan))
    return measure_idle(plan, result, "tls_echo", over_tls(plan.loops), count)


PARTS = {
    "tls": Part(run_tls, tuple(cell.row for cell in OPEN)),
    "tls_handshake": Part(run_tls_handshake, tuple(cell.row for cell in HANDSHAKES)),
    "tls_idle": Part(run_tls_idle, ("idle_tls_echo",)),
}
