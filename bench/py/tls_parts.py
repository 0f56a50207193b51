"""The parts of the benchmark over TLS: requests, handshakes and idle connections, each beside a
bare server that calls OpenSSL directly and, where it is installed, aiofastnet on uvloop."""

from __future__ import annotations

import importlib
import importlib.metadata
import shutil
import ssl
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from loops import AIOFASTNET, over_tls
from parts import Cell, Plan, measure_idle, run_cells
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


def measure(plan: Plan, result: Result, cells: Sequence[Cell]) -> Result:
    result.add(describe(plan))
    run_cells(plan, result, cells)
    runs = [run for cell in result.data["cells"] for rows in cell["runs"].values() for run in rows]
    result.add(f"Negotiated: {', '.join(sorted({run['tls'] for run in runs}))}.")
    result.data["key"] = plan.key_kind
    return result


def run_tls(plan: Plan) -> Result:
    result = Result("tls", "Over TLS: server CPU per request on open connections")
    echo = [Cell("tls_echo", count, size) for size in (1024, 102400) for count in (10, 200)]
    return measure(plan, result, [*echo, Cell("tls_http", 32, 0)])


def run_tls_handshake(plan: Plan) -> Result:
    """Connect, a full handshake, close; no session is resumed."""
    result = Result("tls_handshake", "TLS: server CPU per full handshake")
    return measure(plan, result, [Cell("tls_handshake", IN_FLIGHT, 0)])


def run_tls_idle(plan: Plan) -> Result:
    """Memory of TLS connections that each echoed once and then do nothing."""
    count = plan.tls_idle
    result = Result("tls_idle", f"{count:,} idle TLS connections: resident memory of each")
    result.add(describe(plan))
    return measure_idle(plan, result, "tls_echo", over_tls(plan.loops), count)


PARTS: dict[str, Callable[[Plan], Result]] = {
    "tls": run_tls,
    "tls_handshake": run_tls_handshake,
    "tls_idle": run_tls_idle,
}
