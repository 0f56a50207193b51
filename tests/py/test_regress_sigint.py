"""Field note 9: SIGINT as asyncio.Runner has it; idle multicast sockets cost nothing."""

from __future__ import annotations

import signal
import subprocess

import pytest
from loops import DEADLINE_S, command, ok, script


def interrupt(name: str, code: str, times: int = 1) -> tuple[int, str, str]:
    """Runs code, sends SIGINT each time it prints "ready", returns how it ended."""
    process = subprocess.Popen(
        command(name, code), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    seen = ""
    for _ in range(times):
        line = process.stdout.readline()
        seen += line
        assert line == "ready\n", (line, process.communicate(timeout=DEADLINE_S))
        process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=DEADLINE_S)
    return process.returncode, seen + out, err


CANCELLED = """
async def main():
    loop = asyncio.get_running_loop()
    loop.call_later(0.01, lambda: print("ready", flush=True))  # while the loop waits
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        print("main task cancelled", flush=True)
        raise
try:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())
except KeyboardInterrupt:
    print("KeyboardInterrupt")
"""


def test_main_task_is_cancelled(loop_name: str) -> None:
    status, out, err = interrupt(loop_name, CANCELLED)
    assert out.split("\n") == ["ready", "main task cancelled", "KeyboardInterrupt", ""], err
    assert status == 0


BUSY = CANCELLED.replace("await asyncio.sleep(3600)", "while True: await asyncio.sleep(0)")


def test_busy_loop_is_interrupted(loop_name: str) -> None:
    status, out, err = interrupt(loop_name, BUSY)
    assert out.split("\n") == ["ready", "main task cancelled", "KeyboardInterrupt", ""], err


UNCAUGHT = """
async def main():
    print("ready", flush=True)
    await asyncio.sleep(3600)
with asyncio.Runner(loop_factory=new_loop) as runner:
    runner.run(main())
"""


def test_uncaught_ends_by_the_signal(loop_name: str) -> None:
    status, _, err = interrupt(loop_name, UNCAUGHT)
    assert status == -signal.SIGINT
    assert "KeyboardInterrupt" in err


TWICE = """
async def main():
    loop = asyncio.get_running_loop()
    loop.call_later(0.01, lambda: print("ready", flush=True))
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        print("ready", flush=True)
        while True:
            await asyncio.sleep(0.01)
try:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())
except KeyboardInterrupt:
    print("KeyboardInterrupt", flush=True)
    os._exit(0)
"""


def test_second_interrupt_ends_at_once(loop_name: str) -> None:
    _, out, err = interrupt(loop_name, TWICE, times=2)
    assert out.split("\n")[:3] == ["ready", "ready", "KeyboardInterrupt"], err


PLAIN = """
loop = new_loop()
loop.call_later(0.01, lambda: print("ready", flush=True))
try:
    loop.run_forever()
except KeyboardInterrupt:
    print("KeyboardInterrupt", loop.is_running())
ran = []
loop.call_soon(ran.append, 1)
loop.call_soon(loop.stop)
loop.run_forever()
loop.close()
print(ran)
"""


def test_run_forever_without_a_runner(loop_name: str) -> None:
    status, out, err = interrupt(loop_name, PLAIN)
    assert (status, out) == (0, "ready\nKeyboardInterrupt False\n[1]\n"), err


BLOCKED = """
async def main():
    print("ready", flush=True)
    while True:
        time.sleep(0.01)  # blocks: the loop never gets its turn
try:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())
except KeyboardInterrupt:
    print("KeyboardInterrupt")
"""


def test_stuck_loop_is_interrupted(loop_name: str) -> None:
    """Runner only cancels the task at the first signal, the second one ends it."""
    process = subprocess.Popen(
        command(loop_name, BLOCKED),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=DEADLINE_S)
    assert out == "KeyboardInterrupt\n", err


HANDLERS = """
got = []
async def main():
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    def on(name):
        got.append(name)
        if len(got) == 3: done.set()
    for name in ("SIGUSR1", "SIGUSR2", "SIGTERM"):
        loop.add_signal_handler(getattr(signal, name), on, name)
    for name in ("SIGUSR1", "SIGUSR2", "SIGTERM"):
        os.kill(os.getpid(), getattr(signal, name))
    await done.wait()
    assert loop.remove_signal_handler(signal.SIGUSR1)
    assert not loop.remove_signal_handler(signal.SIGUSR1)
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
with asyncio.Runner(loop_factory=new_loop) as runner:
    runner.run(main())
assert sorted(got) == ["SIGTERM", "SIGUSR1", "SIGUSR2"], got
assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
assert signal.set_wakeup_fd(-1) == -1
"""


def test_signal_handlers(loop_name: str) -> None:
    ok(script(loop_name, HANDLERS))


OTHER_THREAD = """
async def main():
    loop = asyncio.get_running_loop()
    refused = None
    try:
        loop.add_signal_handler(signal.SIGUSR1, print)
    except (RuntimeError, ValueError) as exc:
        refused = exc
    assert refused is not None
    await asyncio.sleep(0.001)
def body():
    loop = new_loop()
    loop.run_until_complete(main())
    loop.close()
    ended.append(1)
ended = []
thread = threading.Thread(target=body)
thread.start(); thread.join()
assert ended == [1]
"""


def test_signals_only_in_the_main_thread(loop_name: str) -> None:
    ok(script(loop_name, OTHER_THREAD))


FROM_THREAD = """
async def main():
    loop = asyncio.get_running_loop()
    got = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, got.set)
    # Delivered to another thread while this one waits: the wake-up must reach the loop.
    def kick():
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
    thread = threading.Thread(target=kick)
    loop.call_later(0.01, thread.start)
    await asyncio.wait_for(got.wait(), 10)
    thread.join()
with asyncio.Runner(loop_factory=new_loop) as runner:
    runner.run(main())
"""


def test_signal_delivered_to_another_thread(loop_name: str) -> None:
    ok(script(loop_name, FROM_THREAD))


MULTICAST = """
import struct
async def main():
    loop = asyncio.get_running_loop()
    socks = []
    for index in range(50):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("", 0))
        group = struct.pack("4s4s", socket.inet_aton("224.0.0.251"), socket.inet_aton("127.0.0.1"))
        try:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
        except OSError:
            pass  # no multicast here; the idle sockets are still the point
        transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, sock=sock)
        socks.append(transport)
    await asyncio.sleep(0.1)
    before = loops.cpu_seconds()
    await asyncio.sleep(2)
    used = loops.cpu_seconds() - before
    for transport in socks: transport.close()
    return used
with asyncio.Runner(loop_factory=new_loop) as runner:
    used = runner.run(main())
assert used <= 0.04, used
"""


def test_idle_multicast_sockets(loop_name: str) -> None:
    """50 idle sockets for two seconds: at most 2 % of a CPU (4 ticks of the process clock)."""
    ok(script(loop_name, MULTICAST))
