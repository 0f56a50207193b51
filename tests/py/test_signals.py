"""add_signal_handler() and the wake-up fd: every path and error, on both loops.

Each program has a process of its own: signals, their handlers and the wake-up fd are the process's.
Ctrl-C has its tests in test_regress_sigint.py.
"""

from __future__ import annotations

import pytest
from loops import ok, script

PRELUDE = """
async def kill(*signums, until=lambda: True):
    for signum in signums:
        os.kill(os.getpid(), signum)
    await loops.until(until, "the signals")
    for _ in range(3):
        await asyncio.sleep(0.001)

def pair():
    reading, writing = socket.socketpair()
    reading.setblocking(False)
    writing.setblocking(False)
    return reading, writing

def numbers(sock):
    try:
        return list(sock.recv(100))
    except BlockingIOError:
        return []

USR1, USR2 = signal.SIGUSR1, signal.SIGUSR2
got = []
loop = new_loop()
"""


def program(name: str, code: str) -> list[str]:
    """The lines that such a program prints."""
    return ok(script(name, PRELUDE + code)).splitlines()


def test_errors_leave_nothing_behind(loop_name: str) -> None:
    lines = program(loop_name, """
async def coroutine(): pass
made = coroutine()
for sig, callback in [
    (signal.SIGKILL, print), (signal.SIGSTOP, print), ("10", print), (10.0, print), (None, print),
    (0, print), (-1, print), (65, print), (10**6, print), (USR1, coroutine), (USR1, made),
]:
    try:
        loop.add_signal_handler(sig, callback)
    except Exception as exc:
        print(type(exc).__name__, exc)
    assert not loop._signal_handlers
    assert signal.set_wakeup_fd(-1) == -1 or type(sig) is int and sig < 20
made.close()
for sig in signal.SIGKILL, USR1:
    print(loop.remove_signal_handler(sig))
for sig in "10", 0, None:
    try:
        loop.remove_signal_handler(sig)
    except Exception as exc:
        print(type(exc).__name__, exc)
loop.close()
try:
    loop.add_signal_handler(USR1, print)
except RuntimeError as exc:
    print(exc)
print(loop.remove_signal_handler(USR1), signal.getsignal(USR1) == signal.SIG_DFL)
""")
    assert lines == [
        "RuntimeError sig 9 cannot be caught",
        "RuntimeError sig 19 cannot be caught",
        "TypeError sig must be an int, not '10'",
        "TypeError sig must be an int, not 10.0",
        "TypeError sig must be an int, not None",
        "ValueError invalid signal number 0",
        "ValueError invalid signal number -1",
        "ValueError invalid signal number 65",
        "ValueError invalid signal number 1000000",
        "TypeError coroutines cannot be used with add_signal_handler()",
        "TypeError coroutines cannot be used with add_signal_handler()",
        "False",
        "False",
        "TypeError sig must be an int, not '10'",
        "ValueError invalid signal number 0",
        "TypeError sig must be an int, not None",
        "Event loop is closed",
        "False True",
    ]


def test_no_warning(loop_name: str) -> None:
    lines = program(loop_name, """
import warnings
warnings.simplefilter("error")
loop.add_signal_handler(USR1, print)
print(loop.remove_signal_handler(USR1))
loop.close()
""")
    assert lines == ["True"]


def test_what_the_handler_raises(loop_name: str) -> None:
    lines = program(loop_name, """
loop.set_exception_handler(lambda _, context: got.append(context))
def fail(): raise ZeroDivisionError
def leave(): raise SystemExit(7)
loop.add_signal_handler(USR1, fail)
loop.run_until_complete(kill(USR1, until=lambda: got))
print(sorted(got[0]), got[0]["message"][:27])
loop.add_signal_handler(USR1, leave)
try:
    loop.run_until_complete(kill(USR1, until=lambda: False))
except SystemExit as exc:
    print("left with", exc.code, loop.is_running())
loop.add_signal_handler(USR1, 42)  # only found out when it is called
got.clear()
for debug in False, True:
    loop.set_debug(debug)
    loop.run_until_complete(kill(USR1, until=lambda: len(got) > debug))
print([type(context["exception"]).__name__ for context in got])
""")
    assert lines == [
        "['exception', 'handle', 'message'] Exception in callback fail(",
        "left with 7 False",
        "['TypeError', 'TypeError']",
    ]


def test_a_plain_handler_that_raises_ends_the_run(loop_name: str) -> None:
    lines = program(loop_name, """
class Stop(Exception): pass
def on_signal(signum, frame): raise Stop
signal.signal(USR1, on_signal)
threading.Timer(0.05, os.kill, (os.getpid(), USR1)).start()
try:
    loop.run_until_complete(asyncio.sleep(60))
except Stop:
    print("stopped", loop.is_running())
loop.run_until_complete(asyncio.sleep(0))
loop.close()
""")
    assert lines == ["stopped False"]


def test_removing_and_replacing(loop_name: str) -> None:
    lines = program(loop_name, """
def once():
    got.append("once")
    print(loop.remove_signal_handler(USR1), signal.getsignal(USR1) == signal.SIG_DFL)
loop.add_signal_handler(USR1, got.append, "never")
loop.add_signal_handler(USR1, once)
loop.add_signal_handler(USR2, got.append, "cancelled")
loop._signal_handlers[USR2].cancel()
loop.run_until_complete(kill(USR1, USR2, until=lambda: got and USR2 not in loop._signal_handlers))
print(got, loop._signal_handlers, signal.getsignal(USR2) == signal.SIG_DFL)
loop.add_signal_handler(signal.SIGINT, got.append, "int")
loop.run_until_complete(kill(signal.SIGINT, until=lambda: "int" in got))
loop.remove_signal_handler(signal.SIGINT)
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler, signal.set_wakeup_fd(-1))
""")
    assert lines == ["True True", "['once'] {} True", "True -1"]


def test_between_two_runs(loop_name: str) -> None:
    lines = program(loop_name, """
loop.add_signal_handler(USR1, got.append, 1)
os.kill(os.getpid(), USR1)
assert not got
loop.run_until_complete(loops.until(lambda: got == [1]))
os.kill(os.getpid(), USR1)
loop.run_until_complete(loops.until(lambda: got == [1, 1]))
loop.close()
print(signal.getsignal(USR1) == signal.SIG_DFL, signal.set_wakeup_fd(-1))
""")
    assert lines == ["True -1"]


def test_the_context_is_that_of_adding(loop_name: str) -> None:
    lines = program(loop_name, """
import contextvars
variable = contextvars.ContextVar("variable")
variable.set("adding")
def handler():
    got.append(variable.get())
    variable.set("handler")
loop.add_signal_handler(USR1, handler)
variable.set("later")
for count in 1, 2:
    loop.run_until_complete(kill(USR1, until=lambda: len(got) == count))
print(got)
""")
    assert lines == ["['adding', 'handler']"]


def test_many_signals_at_once(loop_name: str) -> None:
    """Each kind, several times over; asyncio's socket pair has room for 278 in all."""
    lines = program(loop_name, """
kinds = [*range(signal.SIGRTMIN, signal.SIGRTMAX), USR1, USR2, signal.SIGTERM, signal.SIGHUP]
for kind in kinds:
    loop.add_signal_handler(kind, got.append, kind)
rounds = 8
async def main():
    for _ in range(rounds):
        for kind in kinds:
            os.kill(os.getpid(), kind)
    await loops.until(lambda: len(got) == rounds * len(kinds))
loop.run_until_complete(main())
print(got == kinds * rounds)
""")
    assert lines == ["True"]


def test_a_storm_does_not_cost_the_one_that_counts() -> None:
    """Up to 65536 wait for a loop that is busy; asyncio's loses what comes after 278."""
    lines = program("taut", """
loop.add_signal_handler(USR1, got.append, 1)
loop.add_signal_handler(signal.SIGTERM, got.append, "term")
async def main():
    for _ in range(20000):
        os.kill(os.getpid(), USR1)
    os.kill(os.getpid(), signal.SIGTERM)
    await loops.until(lambda: "term" in got)
loop.run_until_complete(main())
print(len(got))
""")
    assert lines == ["20001"]


def test_a_thread_that_sends_and_one_that_is_hit(loop_name: str) -> None:
    lines = program(loop_name, """
loop.add_signal_handler(USR1, got.append, 1)
async def main():
    stop = threading.Event()
    hit = threading.Thread(target=stop.wait)
    hit.start()
    for count in range(1, 21):
        thread = threading.Thread(target=signal.pthread_kill, args=(hit.ident, USR1))
        loop.call_later(0.001, thread.start)  # while the loop waits
        await loops.until(lambda: len(got) == count)
        thread.join()
    stop.set()
    hit.join()
loop.run_until_complete(main())
print(len(got))
""")
    assert lines == ["20"]


def test_closing_in_another_thread_is_told(loop_name: str) -> None:
    """Nobody can take the handlers back there: the process would go on ignoring SIGTERM unseen."""
    lines = program(loop_name, """
loop.add_signal_handler(signal.SIGTERM, print)
def close():
    try:
        loop.close()
    except ValueError as exc:
        print(exc)
thread = threading.Thread(target=close)
thread.start()
thread.join()
print(loop.is_closed())
""")
    assert lines == ["signal only works in main thread of the main interpreter", "True"]


def test_another_loop_runs_when_it_arrives() -> None:
    """asyncio's loops take the wake-up fd away from each other, and lose signals."""
    lines = program("taut", """
other = new_loop()
loop.add_signal_handler(USR1, got.append, "one")
other.add_signal_handler(USR2, got.append, "two")
loop.run_until_complete(kill(USR1, USR2, until=lambda: "one" in got))
other.run_until_complete(kill(USR1, until=lambda: "two" in got))
print(got)
loop.run_until_complete(loops.until(lambda: len(got) == 3))
print(got[2])
other.close()
loop.run_until_complete(kill(USR1, until=lambda: len(got) == 4))
loop.close()
print(signal.set_wakeup_fd(-1))
""")
    assert lines == ["['one', 'two']", "one", "-1"]


def test_a_run_leaves_the_programs_wakeup_fd_alone(loop_name: str) -> None:
    lines = program(loop_name, """
reading, writing = pair()
signal.signal(USR1, lambda *_: got.append("plain"))
signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
loop.run_until_complete(kill(USR1, until=lambda: got))
loop.run_until_complete(asyncio.sleep(0))
print(numbers(reading))  # told of it during the run
os.kill(os.getpid(), USR1)
print(numbers(reading))
print(signal.set_wakeup_fd(-1) == writing.fileno())

async def main():  # set within a run
    signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
loop.run_until_complete(main())
print(signal.set_wakeup_fd(-1) == writing.fileno())
loop.close()
""")
    assert lines == ["[10]", "[10]", "True", "True"]


def test_nothing_is_written_to_what_took_the_number_of_a_wakeup_fd() -> None:
    lines = program("taut", """
reading, writing = pair()
signal.signal(USR1, lambda *_: got.append("plain"))
signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
innocent_reading, innocent = pair()

async def main():
    os.dup2(innocent.fileno(), writing.fileno())
    await kill(USR1, until=lambda: got)
    await asyncio.sleep(0.001)
loop.run_until_complete(main())
signal.set_wakeup_fd(-1)
print(numbers(innocent_reading), got)
""")
    assert lines == ["[] ['plain']"]


def test_runners_side_by_side_and_in_turn(loop_name: str) -> None:
    lines = program(loop_name, """
def inner():
    with asyncio.Runner(loop_factory=new_loop) as runner:
        print(runner.run(asyncio.sleep(0, "inner")))

async def main():
    asyncio.get_running_loop().add_signal_handler(USR1, got.append, "outer")
    await asyncio.to_thread(inner)
    await kill(USR1, until=lambda: got)

with asyncio.Runner(loop_factory=new_loop) as runner:
    runner.run(main())
with asyncio.Runner(loop_factory=new_loop) as outer:
    outer.run(asyncio.sleep(0))
    with asyncio.Runner(loop_factory=new_loop) as runner:
        try:
            runner.run(kill(signal.SIGINT, until=lambda: False))
        except KeyboardInterrupt:
            print("interrupted")
    outer.run(asyncio.sleep(0))
print(got, signal.getsignal(signal.SIGINT) is signal.default_int_handler, signal.set_wakeup_fd(-1))
""")
    assert lines == ["inner", "interrupted", "['outer'] True -1"]


@pytest.mark.parametrize("how", ["closed", "unclosed"])
def test_the_interpreter_ends_with_handlers(loop_name: str, how: str) -> None:
    done = script(loop_name, PRELUDE + f"""
sys.modules["kept"] = loop  # lives until the modules go
loop.add_signal_handler(USR1, print)
loop.add_signal_handler(signal.SIGTERM, print)
if {how == 'closed'}:
    import atexit
    atexit.register(loop.close)
print("end")
""")
    assert ok(done) == "end\n"
    assert "Traceback" not in done.stderr
