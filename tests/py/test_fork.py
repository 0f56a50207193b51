"""fork(): what a child does to the loop it was born with does not reach its parent's.

Each program runs in a process of its own, and so do its children, under a deadline. The epoll
instance, the eventfd and the sockets of a loop are shared with a forked child.
"""

from __future__ import annotations

import os
import sys

import pytest
from loops import ok, script

# The sanitizer's allocator may be locked by a thread that the child does not have.
pytestmark = pytest.mark.no_asan

#: `child(work)` forks; `ended(pid)` is the exit status, awaited without blocking the loop; a child
#: that hangs is ended by its alarm.
HELPERS = """
import traceback

def child(work):
    pid = os.fork()
    if pid:
        return pid
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(20)
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)

async def ended(pid):
    loop = asyncio.get_running_loop()
    _, status = await loop.run_in_executor(None, os.waitpid, pid, 0)
    return os.waitstatus_to_exitcode(status)

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(data)

async def served():
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()

async def talk(address, reader=None, writer=None):
    if reader is None:
        reader, writer = await asyncio.open_connection(*address)
    writer.write(b"ping")
    assert await asyncio.wait_for(reader.readexactly(4), 10) == b"ping"
    return reader, writer

async def still_whole(address, streams):
    # Old connection, new connection, wake-ups by other threads.
    await talk(address, *streams)
    _, writer = await talk(address)
    writer.close()
    loop = asyncio.get_running_loop()
    for _ in range(3):
        woken = asyncio.Event()
        threading.Thread(target=loop.call_soon_threadsafe, args=(woken.set,)).start()
        await asyncio.wait_for(woken.wait(), 10)
"""


def forked(name: str, code: str, deadline_s: float = 40) -> str:
    """What such a program prints."""
    return ok(script(name, HELPERS + code, timeout=deadline_s))


@pytest.mark.parametrize("where", ["coroutine", "executor"])
def test_a_child_runs_a_loop_of_its_own(loop_name: str, where: str) -> None:
    out = forked(
        loop_name,
        f"where = {where!r}\n"
        """
def work():
    try:
        asyncio.get_running_loop()
        raise AssertionError("a loop runs in the child")
    except RuntimeError:
        pass
    async def main():
        server, address = await served()
        await still_whole(address, await talk(address))
        assert await asyncio.to_thread(os.getpid) == os.getpid()
        server.close()
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())

async def main():
    server, address = await served()
    streams = await talk(address)
    loop = asyncio.get_running_loop()
    for _ in range(3):
        if where == "coroutine":
            pid = child(work)
        else:
            pid = await loop.run_in_executor(None, child, work)
        assert await ended(pid) == 0
        await still_whole(address, streams)
    print("whole")

with asyncio.Runner(loop_factory=new_loop) as runner:
    runner.run(main())
""",
    )
    assert out == "whole\n"


def test_a_process_pool_of_forks_beside_a_running_loop(loop_name: str) -> None:
    out = forked(
        loop_name,
        """
import concurrent.futures, multiprocessing

async def twice(n):
    await asyncio.sleep(0)
    return 2 * n

def work(n):
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(twice(n))

async def main():
    server, address = await served()
    streams = await talk(address)
    context = multiprocessing.get_context("fork")
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        loop = asyncio.get_running_loop()
        print(*await asyncio.gather(*[loop.run_in_executor(pool, work, n) for n in range(6)]))
    await still_whole(address, streams)

with asyncio.Runner(loop_factory=new_loop) as runner:
    runner.run(main())
""",
    )
    assert out == "0 2 4 6 8 10\n"


def test_a_child_that_closes_the_inherited_loop_leaves_the_parents_alone() -> None:
    # asyncio's child takes the self-pipe of the parent out of the epoll instance they share.
    out = forked(
        "taut",
        """
loop = new_loop()
server, address = loop.run_until_complete(served())
streams = loop.run_until_complete(talk(address))
one, two = socket.socketpair()
seen = []
loop.add_reader(one, lambda: seen.append(one.recv(9)))
assert loop.run_until_complete(loop.getaddrinfo("localhost", 80))

def work():
    loop.close()
    assert loop.is_closed()

pid = child(work)
assert loop.run_until_complete(ended(pid)) == 0
loop.run_until_complete(still_whole(address, streams))
two.send(b"seen")
loop.run_until_complete(loops.until(lambda: seen, "the reader"))
loop.close()
print(seen)
""",
    )
    assert out == "[b'seen']\n"


def test_a_child_that_lets_go_of_what_it_inherited_leaves_the_parents_alone() -> None:
    out = forked(
        "taut",
        """
async def main():
    loop = asyncio.get_running_loop()
    server, address = await served()
    closed, aborted = await talk(address), await talk(address)
    one, two = socket.socketpair()
    seen = []
    loop.add_reader(one, lambda: seen.append(one.recv(9)))

    def work():
        closed[1].close()
        aborted[1].transport.abort()
        server.close()
        assert loop.remove_reader(one)
        loop.add_writer(two, print)
        assert loop.remove_writer(two)

    assert await ended(child(work)) == 0
    await still_whole(address, closed)
    await still_whole(address, aborted)
    two.send(b"seen")
    await loops.until(lambda: seen, "the reader")
    print(seen)

with asyncio.Runner(loop_factory=new_loop) as runner:
    runner.run(main())
""",
    )
    assert out == "[b'seen']\n"


def test_an_inherited_loop_works_in_parent_and_children() -> None:
    # The way of a server that makes its sockets and its loop and then forks its workers.
    out = forked(
        "taut",
        """
loop = new_loop()
server, address = loop.run_until_complete(served())
streams = loop.run_until_complete(talk(address))
assert loop.run_until_complete(loop.getaddrinfo("localhost", 80))
go, told = os.pipe(), os.pipe()

async def main():
    # All at the same time: each is woken by its own threads and signals only.
    came = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, came.set)
    for _ in range(100):
        woken = asyncio.Event()
        threading.Thread(target=loop.call_soon_threadsafe, args=(woken.set,)).start()
        await asyncio.wait_for(woken.wait(), 10)
        assert not came.is_set()
    os.kill(os.getpid(), signal.SIGUSR1)
    await asyncio.wait_for(came.wait(), 10)
    assert await asyncio.wait_for(loop.getaddrinfo("localhost", 80), 10)

def work():
    streams[1].transport.pause_reading()
    loop.call_soon_threadsafe(int)
    loop.run_until_complete(main())
    loop.close()

pids = [child(work) for _ in range(3)]
loop.run_until_complete(main())
for pid in pids:
    assert loop.run_until_complete(ended(pid)) == 0
loop.run_until_complete(still_whole(address, streams))
loop.close()
print("all")
""",
    )
    assert out == "all\n"


@pytest.mark.parametrize("where", ["coroutine", "executor"])
def test_a_signal_for_the_child_is_not_handled_by_the_parent(where: str) -> None:
    # Up to Python 3.11 asyncio's child writes it to the parent's self-pipe.
    out = forked(
        "taut",
        f"where = {where!r}\n"
        """
async def main():
    loop = asyncio.get_running_loop()
    seen = []
    loop.add_signal_handler(signal.SIGTERM, seen.append, "SIGTERM")

    def work():
        os.kill(os.getpid(), signal.SIGTERM)
        deadline = time.monotonic() + 0.1
        while time.monotonic() < deadline:
            pass

    pid = child(work) if where == "coroutine" else await asyncio.to_thread(child, work)
    assert await ended(pid) == 0
    for _ in range(5):
        await asyncio.sleep(0.001)
    print(seen)
    os.kill(os.getpid(), signal.SIGTERM)
    await loops.until(lambda: seen, "the parent's own signal")
    print(seen)

with asyncio.Runner(loop_factory=new_loop) as runner:
    runner.run(main())
""",
    )
    assert out == "[]\n['SIGTERM']\n"


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="asyncio resets it in every child")
def test_a_childs_own_wakeup_fd_is_left_alone() -> None:
    out = forked(
        "taut",
        """
import taut
one, two = socket.socketpair()
two.setblocking(False)
signal.set_wakeup_fd(two.fileno())
loop = new_loop()

def work():
    assert signal.set_wakeup_fd(-1) == two.fileno()

pid = child(work)
assert loop.run_until_complete(ended(pid)) == 0
loop.close()
print("ok")
""",
    )
    assert out == "ok\n"


def test_a_stall_in_the_child_is_reported() -> None:
    done = script(
        "taut",
        HELPERS
        + """
def work():
    async def stalls_in_child():
        time.sleep(0.3)  # blocks: it is the stall
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(stalls_in_child())

async def main():
    assert await ended(child(work)) == 0

with asyncio.Runner(loop_factory=new_loop) as runner:
    runner.run(main())
""",
    )
    ok(done)
    assert "in work.<locals>.stalls_in_child" in done.stderr, done.stderr


def test_the_parents_running_loop_is_refused() -> None:
    # In asyncio's words, and where to look. (asyncio's of 3.13.0 forgets that it runs.)
    out = forked(
        "taut",
        """
def refused(call):
    try:
        call()
    except RuntimeError as exc:
        return str(exc)

def work():
    assert loop.is_running()
    texts = refused(loop.run_forever), refused(loop.close)
    assert texts[0].startswith("This event loop is already running"), texts
    assert texts[1].startswith("Cannot close a running event loop"), texts
    assert all("make a new one here" in text for text in texts), texts
    own = new_loop()
    own.run_until_complete(asyncio.sleep(0))
    own.close()

async def main():
    for pid in child(work), await asyncio.to_thread(child, work):
        assert await ended(pid) == 0
loop = new_loop()
loop.run_until_complete(main())
loop.close()
print("refused")
""",
    )
    assert out == "refused\n"


def test_a_child_cannot_hand_work_to_a_thread_that_it_has_not() -> None:
    # asyncio's queues it, and run_coroutine_threadsafe().result() waits for ever.
    out = forked(
        "taut",
        """
import warnings
warnings.simplefilter("ignore")  # the coroutine that nobody runs

def work():
    try:
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(20)
    except RuntimeError as exc:
        print(exc)

loop = new_loop()
thread = threading.Thread(target=loop.run_forever)
thread.start()
asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(20)  # it runs
assert os.waitstatus_to_exitcode(os.waitpid(child(work), 0)[1]) == 0
assert asyncio.run_coroutine_threadsafe(asyncio.sleep(0, "the parent's works"), loop).result(20)
loop.call_soon_threadsafe(loop.stop)
thread.join()
loop.close()
""",
    )
    assert "runs in the parent process, in a thread that fork() has left behind" in out


@pytest.mark.skipif(
    sys.version_info >= (3, 14) and os.environ.get("TAUT_TASKS") == "stdlib",
    reason="asyncio's tasks end with RuntimeError in the child: their loop does not run there",
)
def test_a_child_that_leaves_its_parents_run() -> None:
    # The stack is the parent's: through run_forever, and the Runner's clean-up. asyncio's child
    # disturbs the epoll instance of its parent, which hangs.
    out = forked(
        "taut",
        """
async def main():
    pid = os.fork()
    if not pid:
        signal.alarm(20)
        raise SystemExit(4)
    assert await ended(pid) == 4
    await asyncio.sleep(0.001)
    print("whole")

with asyncio.Runner(loop_factory=new_loop) as runner:
    runner.run(main())
""",
    )
    assert out == "whole\n"
