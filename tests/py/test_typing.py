"""The package's types: mypy --strict is content, and the stub of the C module tells the truth."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from programs import Python, python  # noqa: F401

import taut

ROOT = Path(__file__).resolve().parents[2]
CALLER = """\
import asyncio
import taut

async def main() -> int:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, taut.Loop)
    reveal_type(loop.stall_threshold)
    reveal_type(loop.call_later(1, print, "x"))
    reveal_type(await loop.sock_recv(object(), 1))  # an error: not a socket
    return 1

reveal_type(taut.run(main()))
with taut.Runner() as runner:
    reveal_type(runner.run(main()))
with asyncio.Runner(loop_factory=taut.new_event_loop) as other:
    other.run(main())
taut.run(main)  # an error: not a coroutine
asyncio.set_event_loop_policy(taut.EventLoopPolicy())
"""


def mypy_path() -> dict[str, str]:
    """Where mypy finds taut when it is not installed; it refuses to be told of site-packages."""
    where = str(Path(taut.__file__).parents[1])
    return {} if where in sys.path and "site-packages" in where else {"MYPYPATH": where}


def test_mypy_strict(python: Python) -> None:
    pytest.importorskip("mypy")
    done = python("-m", "mypy", "--strict", "python/taut", "--cache-dir=/dev/null", cwd=ROOT)
    assert done.status == 0, done


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="types of older Pythons' policies")
def test_a_callers_types(python: Python, tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "caller.py").write_text(CALLER)
    done = python("-m", "mypy", "--strict", "caller.py", "--cache-dir=/dev/null", **mypy_path())
    seen = [x.partition("caller.py:")[2] for x in done.out.splitlines() if "caller.py" in x]
    assert seen == [
        '7: note: Revealed type is "float | None"',
        '8: note: Revealed type is "taut._core.TimerHandle"',
        '9: note: Revealed type is "bytes"',
        '9: error: Argument 1 to "sock_recv" of "Loop" has incompatible type "object"; '
        'expected "socket"  [arg-type]',
        '12: note: Revealed type is "int"',
        '14: note: Revealed type is "int"',
        '17: error: Argument 1 to "run" has incompatible type "Callable[[], Coroutine[Any, Any, '
        'int]]"; expected "Coroutine[Any, Any, Never]"  [arg-type]',
    ], done


def test_the_stub_matches_the_extension(python: Python) -> None:
    pytest.importorskip("mypy")
    allow = ROOT / "tests" / "stubtest_allow.txt"
    done = python("-m", "mypy.stubtest", "taut", f"--allowlist={allow}", **mypy_path())
    assert done.status == 0, done
