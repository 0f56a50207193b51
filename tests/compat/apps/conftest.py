"""Fixtures of the tests of real programs: both loops, the servers, and a limit per test."""

from __future__ import annotations

import faulthandler
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "py"))

import apps  # noqa: E402
import loops  # noqa: E402
from tls_certs import Certs  # noqa: E402

LOOPS = os.environ.get("TAUT_TEST_LOOPS", "asyncio,taut").split(",")
TEST_LIMIT_S = 120


@pytest.fixture(autouse=True)
def _never_hang() -> Iterator[None]:
    faulthandler.dump_traceback_later(TEST_LIMIT_S, exit=True, file=sys.__stderr__)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(params=LOOPS)
def factory(request: pytest.FixtureRequest) -> loops.Factory:
    """Makes a new loop: asyncio's, whose behaviour is the expectation, or taut's."""
    return loops.factory(request.param)


@pytest.fixture(scope="session")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Certs:
    """Certificates for TLS."""
    return Certs(tmp_path_factory.mktemp("certs"))


@pytest.fixture
def postgres() -> str:
    return apps.server("postgres")


@pytest.fixture
def redis_url() -> str:
    return apps.server("redis")


@pytest.fixture
def mysql() -> str:
    return apps.server("mysql")


@pytest.fixture
def amqp() -> str:
    return apps.server("amqp")


@pytest.fixture
def nats_url() -> str:
    return apps.server("nats")
