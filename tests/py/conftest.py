"""What the tests share: the loops that a test runs on, and a last resort against hangs."""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("TAUT_JOURNAL", "0")  # read when taut is imported: not the user's own
sys.path.insert(0, str(Path(__file__).parent))

import loops  # noqa: E402

if sys.platform == "linux":
    # Imported when a loop first has something to tell, or is first examined: not while a test
    # counts what is left behind.
    import taut.doctor._hooks
    import taut.doctor._rules  # noqa: F401

# A shell that runs `make test &` from a script has it ignore SIGINT, and so would every child.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

#: Each test that takes a loop runs on all of these; asyncio's result is the expectation.
LOOPS = os.environ.get("TAUT_TEST_LOOPS", "asyncio,taut").split(",")
TEST_LIMIT_S = 120


@pytest.fixture(autouse=True)
def _never_hang() -> Iterator[None]:
    """A test that hangs ends the run with every thread's stack instead of a silent time-out."""
    faulthandler.dump_traceback_later(TEST_LIMIT_S, exit=True, file=sys.__stderr__)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(params=LOOPS)
def loop_name(request: pytest.FixtureRequest) -> str:
    """Name of a loop implementation: asyncio or taut."""
    name: str = request.param
    return name


@pytest.fixture
def factory(loop_name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """Makes a new loop of that implementation."""
    return loops.factory(loop_name)


@pytest.fixture(scope="session")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Certificates for TLS: a tls_certs.Certs."""
    from tls_certs import Certs  # its package is needed by these tests only

    return Certs(tmp_path_factory.mktemp("certs"))


@pytest.fixture(params=["1.2", "1.3"])
def version(request: pytest.FixtureRequest) -> str:
    """A version of TLS."""
    name: str = request.param
    return name


@pytest.fixture(params=["client", "server"])
def side(request: pytest.FixtureRequest) -> str:
    """The side of a TLS connection that the loop under test has."""
    name: str = request.param
    return name


@pytest.fixture
def loop(
    factory: Callable[[], asyncio.AbstractEventLoop],
) -> Iterator[asyncio.AbstractEventLoop]:
    """An open loop, closed after the test."""
    made = factory()
    yield made
    if not made.is_closed():
        made.run_until_complete(made.shutdown_asyncgens())
        made.close()
