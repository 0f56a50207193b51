"""The life of a child process: callbacks and their order, codes, signals, closing, giving up."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import os
import signal
import subprocess
import threading
import warnings
from typing import Any

import loops
import processes
import pytest
from loops import Factory
from processes import Recorder, output, recorded, sh

PIPE = subprocess.PIPE
INHERITED = {"stdin": None, "stdout": None, "stderr": None}


def has_child() -> bool:
    """Whether there is any child, running or zombie."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def leftovers() -> tuple[int, bool]:
    """Open fds, and whether there is any child."""
    gc.collect()
    return loops.fd_count(), has_child()


# ---- callbacks and transport ---------------------------------------------------------------------


def test_callbacks_in_order(factory: Factory) -> None:
    async def main() -> None:
        transport, protocol = await recorded("/bin/sh", "-c", "echo out; echo err >&2; exit 5")
        assert protocol.calls[0] == "connection_made"
        assert protocol.transport is transport
        await protocol.done
        assert (bytes(protocol.data[1]), bytes(protocol.data[2])) == (b"out\n", b"err\n")
        assert transport.get_returncode() == 5
        calls = protocol.calls
        assert calls[-1] == ("connection_lost", None)
        assert calls.count("process_exited") == 1
        for fd in (1, 2):
            data, lost = ("pipe_data_received", fd), ("pipe_connection_lost", fd, None)
            assert calls.index(data) < calls.index(lost) == len(calls) - 1 - calls[::-1].index(lost)
        # The write end notices that its reader is gone.
        (stdin,) = [call for call in calls if call[:2] == ("pipe_connection_lost", 0)]
        assert stdin[2] is None or isinstance(stdin[2], BrokenPipeError)

    loops.run(factory, main())


def test_without_pipes(factory: Factory) -> None:
    async def main() -> None:
        transport, protocol = await recorded("/bin/true", **INHERITED)
        await protocol.done
        assert protocol.calls == ["connection_made", "process_exited", ("connection_lost", None)]
        assert [transport.get_pipe_transport(fd) for fd in (0, 1, 2, 3, -1)] == [None] * 5

    loops.run(factory, main())


def test_transport_methods(factory: Factory) -> None:
    async def main() -> None:
        transport, protocol = await recorded("/bin/cat", stderr=None)
        assert isinstance(transport, asyncio.SubprocessTransport)
        assert transport.get_pid() == transport._pid > 0
        assert transport.get_returncode() is None
        assert not transport.is_closing()
        assert transport.get_protocol() is protocol
        assert transport.get_extra_info("nothing", 5) == 5
        assert transport.get_extra_info("nothing") is None
        assert isinstance(transport.get_pipe_transport(0), asyncio.WriteTransport)
        assert isinstance(transport.get_pipe_transport(1), asyncio.ReadTransport)
        assert transport.get_pipe_transport(2) is None
        shown = repr(transport)
        assert f"Transport pid={transport.get_pid()} running stdin=<" in shown
        assert " stdout=<" in shown and " stderr=" not in shown
        other = Recorder()
        transport.set_protocol(other)
        assert transport.get_protocol() is other
        transport.get_pipe_transport(0).write(b"text")
        transport.get_pipe_transport(0).close()
        await other.done
        assert bytes(other.data[1]) == b"text"
        assert protocol.calls == ["connection_made"]
        assert transport.get_protocol() is None
        assert transport.get_returncode() == 0
        assert " returncode=0" in repr(transport)
        transport.close()
        transport.close()
        assert transport.is_closing()
        assert "Transport closed pid=" in repr(transport)

    loops.run(factory, main())


def test_attributes_of_asyncio(factory: Factory) -> None:
    """Private ones that libraries look at, and attributes of one's own."""

    async def main() -> None:
        transport, protocol = await recorded("/bin/cat", stderr=None)
        assert transport._proc is transport.get_extra_info("subprocess")
        assert transport._loop is asyncio.get_running_loop()
        assert sorted(transport._pipes) == [0, 1]
        assert transport._pipes[1].pipe is transport.get_pipe_transport(1)
        assert (transport._returncode, transport._closed, transport._finished) == (
            None, False, False,
        )  # fmt: skip
        transport.own_attribute = 1
        transport.close()
        await protocol.done
        assert (transport._returncode, transport._closed, transport._finished) == (-9, True, True)
        assert (transport._proc, transport._loop, transport._protocol) == (None, None, None)

    loops.run(factory, main())


def test_context_of_the_callbacks(loop_name: str) -> None:
    if loop_name != "taut":
        pytest.skip("asyncio's process_exited() comes from the context of whatever waited")

    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")

    class Protocol(Recorder):
        def process_exited(self) -> None:
            self.calls.append(variable.get())
            variable.set("changed")

        def connection_lost(self, exc: BaseException | None) -> None:
            self.calls.append(variable.get())
            super().connection_lost(exc)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        variable.set("starter")
        _, protocol = await loop.subprocess_exec(Protocol, "/bin/true")
        variable.set("later")
        await protocol.done
        assert [call for call in protocol.calls if isinstance(call, str)] == [
            "connection_made", "starter", "starter",
        ]  # fmt: skip

    loops.run(loops.factory(loop_name), main())


@pytest.mark.parametrize("method", ["process_exited", "connection_lost", "pipe_data_received"])
def test_callback_that_raises(factory: Factory, method: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        faults = loops.Faults(loop)

        def broken(*_: Any) -> None:
            raise ZeroDivisionError(method)

        made = type("Broken", (Recorder,), {method: broken})
        transport, protocol = await loop.subprocess_exec(made, "/bin/echo", "x")
        assert await transport._wait() == 0
        await loops.until(lambda: transport.get_protocol() is None, "connection_lost")
        assert faults.exceptions() == [ZeroDivisionError]
        if method != "connection_lost":
            assert protocol.done.done()

    loops.run(factory, main())


def test_backpressure(factory: Factory) -> None:
    """A child that does not read holds the writer, not the loop."""

    async def main() -> None:
        process = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", "read line; cat", stdin=PIPE, stdout=PIPE
        )
        assert process.stdin is not None
        process.stdin.write(b"x" * 1_000_000)
        draining = asyncio.ensure_future(process.stdin.drain())
        for _ in range(20):
            await asyncio.sleep(0)
        assert not draining.done()
        process.stdin.write(b"\ntail")
        process.stdin.close()
        out, _ = await process.communicate()
        assert out == b"tail"
        await draining

    loops.run(factory, main())


def test_much_data_through_both_pipes(factory: Factory) -> None:
    async def main() -> None:
        data = os.urandom(3_000_000)
        process = await asyncio.create_subprocess_exec("/bin/cat", stdin=PIPE, stdout=PIPE)
        out, _ = await process.communicate(data)
        assert out == data

    loops.run(factory, main())


def test_grandchild_keeps_the_pipes(factory: Factory) -> None:
    """The exit is told at once, connection_lost when the last writer is gone."""

    async def main() -> None:
        transport, protocol = await recorded(
            "/bin/sh", "-c", "exec 3<&0; (read line; echo late) <&3 &", stderr=None
        )
        await loops.until(lambda: "process_exited" in protocol.calls)
        assert not protocol.done.done()
        transport.get_pipe_transport(0).write(b"\n")
        await protocol.done
        assert protocol.data[1].endswith(b"late\n")
        assert protocol.calls[-1] == ("connection_lost", None)

    loops.run(factory, main())


# ---- signals and codes ---------------------------------------------------------------------------


def test_signals(factory: Factory) -> None:
    async def main() -> None:
        for send, code in (
            (lambda t: t.kill(), -9),
            (lambda t: t.terminate(), -15),
            (lambda t: t.send_signal(signal.SIGINT), -2),
            (lambda t: t.send_signal(signal=1), -1),
        ):
            transport, protocol = await recorded("/bin/cat")
            send(transport)
            await protocol.done
            assert transport.get_returncode() == code
            for again in (transport.kill, transport.terminate):
                with pytest.raises(ProcessLookupError):
                    again()
            with pytest.raises(ProcessLookupError):
                transport.send_signal(9)
            transport.close()

    loops.run(factory, main())


def test_bad_signals(factory: Factory) -> None:
    async def main() -> None:
        transport, protocol = await recorded("/bin/cat")
        with pytest.raises(OSError, match="Invalid argument"):
            transport.send_signal(12345)
        with pytest.raises(TypeError):
            transport.send_signal("x")
        with pytest.raises(TypeError):
            transport.send_signal()
        transport.close()
        await protocol.done

    loops.run(factory, main())


def test_signal_to_a_child_that_has_just_ended(factory: Factory) -> None:
    """Before the loop knows: the signal goes nowhere, and the code is not lost by asking."""

    async def main() -> None:
        transport, protocol = await recorded("/bin/sh", "-c", "exit 3")
        try:
            os.waitid(os.P_PID, transport.get_pid(), os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            pass  # asyncio's waiting thread was faster
        transport.kill()
        transport.terminate()
        await protocol.done
        # asyncio of 3.11 and 3.12 loses the code here, and says 255.
        if type(transport).__name__ == "SubprocessTransport":
            assert transport.get_returncode() == 3

    loops.run(factory, main())


def test_popen_object(loop_name: str) -> None:
    """What get_extra_info("subprocess") gives behaves as a Popen and takes nothing away."""
    if loop_name != "taut":
        pytest.skip("asyncio's loses the exit code when it is asked")

    async def main() -> None:
        transport, protocol = await recorded("/bin/sh", "-c", "read x; exit 6")
        popen = transport.get_extra_info("subprocess")
        assert isinstance(popen, subprocess.Popen)
        assert popen.pid == transport.get_pid()
        assert popen.args == ("/bin/sh", "-c", "read x; exit 6")
        assert popen.poll() is None and popen.returncode is None
        assert popen.stdin is transport.get_pipe_transport(0).get_extra_info("pipe")
        assert popen.stdout is transport.get_pipe_transport(1).get_extra_info("pipe")
        with pytest.raises(subprocess.TimeoutExpired):
            popen.wait(0.001)
        popen.stdin.write(b"\n")
        assert popen.wait() == 6  # this waits, and reaps
        assert popen.poll() == popen.returncode == 6
        popen.kill()
        await protocol.done
        assert transport.get_returncode() == 6
        assert protocol.calls.count("process_exited") == 1
        transport, protocol = await recorded("/bin/cat")
        popen = transport.get_extra_info("subprocess")
        popen.terminate()
        assert popen.wait(10) == -15
        await protocol.done
        assert transport.get_returncode() == popen.returncode == -15

    loops.run(loops.factory(loop_name), main())


def test_code_for_a_child_that_somebody_else_reaped(
    factory: Factory, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        transport, protocol = await recorded("/bin/sh", "-c", "read x; exit 3")
        pid = transport.get_pid()
        os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(pid, 0)
        except ChildProcessError:
            return  # asyncio's waiting thread was faster
        await protocol.done
        assert transport.get_returncode() == 255
        (told,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
        assert f"child process pid {pid}" in told and "will report returncode 255" in told

    loops.run(factory, main())


def test_ignored_sigchld(factory: Factory, loop_name: str) -> None:
    """Then the kernel reaps by itself, and nobody learns the code."""
    if loop_name != "taut":
        pytest.skip("asyncio of 3.12 may find no process to open a pidfd for")

    async def main() -> None:
        process = await asyncio.create_subprocess_exec("/bin/true")
        assert await process.wait() == 255

    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        loops.run(factory, main())
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_handlers_of_sigchld_are_undisturbed(factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        heard: list[str] = []
        mine = signal.signal(signal.SIGCHLD, lambda *_: heard.append("signal"))
        try:
            assert await output("/bin/true") == (0, b"")
            await loops.until(lambda: "signal" in heard, "signal.signal's handler")
        finally:
            signal.signal(signal.SIGCHLD, mine)
        loop.add_signal_handler(signal.SIGCHLD, heard.append, "loop")
        assert await output("/bin/true") == (0, b"")
        await loops.until(lambda: "loop" in heard, "add_signal_handler's handler")
        loop.remove_signal_handler(signal.SIGCHLD)

    loops.run(factory, main())


def test_a_handler_of_sigchld_that_reaps_whatever_it_finds(loop_name: str) -> None:
    """It takes codes away, but no notice."""
    if loop_name != "taut":
        pytest.skip("asyncio of 3.12 may find no process to open a pidfd for")

    def reap(*_: Any) -> None:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass

    async def main() -> None:
        for _ in range(5):
            code, _out = await output("/bin/true")
            assert code in (0, 255)

    before = signal.signal(signal.SIGCHLD, reap)
    try:
        loops.run(loops.factory(loop_name), main())
    finally:
        signal.signal(signal.SIGCHLD, before)


# ---- many ----------------------------------------------------------------------------------------


def test_fifty_children_at_once(factory: Factory) -> None:
    async def child(number: int) -> None:
        script = f"read x; echo $x; exit {number}"
        process = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", script, stdin=PIPE, stdout=PIPE
        )
        out, _ = await process.communicate(b"%d\n" % number)
        assert (out, process.returncode) == (b"%d\n" % number, number)

    async def main() -> None:
        await asyncio.gather(*(child(number) for number in range(50)))

    before = leftovers()
    loops.run(factory, main())
    assert leftovers() == before


def test_loops_in_several_threads_start_children_at_once(factory: Factory) -> None:
    """uvloop refuses: "Racing with another loop to spawn a process" (its issue 508)."""
    failures: list[BaseException] = []
    together = threading.Barrier(4)

    async def main() -> None:
        for number in range(8):
            process = await asyncio.create_subprocess_exec(
                "/bin/sh", "-c", f"cat; exit {number}", stdin=PIPE, stdout=PIPE
            )
            assert await process.communicate(b"x") == (b"x", None)
            assert process.returncode == number

    def thread() -> None:
        try:
            together.wait(loops.DEADLINE_S)
            loops.run(factory, main())
        except BaseException as exc:
            failures.append(exc)

    before = leftovers()
    threads = [threading.Thread(target=thread) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not failures
    assert leftovers() == before


def test_a_loop_in_a_thread_needs_nothing_of_the_main_thread(factory: Factory) -> None:
    """No child watcher has to be attached to the main thread's loop, which may not even run."""
    codes: list[int] = []

    async def main() -> None:
        code, _ = await output("/bin/sh", "-c", "exit 9")
        codes.append(code)

    thread = threading.Thread(target=lambda: loops.run(factory, main()))
    thread.start()
    thread.join()
    assert codes == [9]


def test_no_thread_and_no_fd_stays(loop_name: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        await output("/bin/true")
        threads, fds = loops.thread_count(), loops.fd_count()
        transport, protocol = await recorded("/bin/cat")
        if loop_name == "taut":
            assert loops.thread_count() == threads
        transport.close()
        await protocol.done
        for _ in range(10):
            with pytest.raises(FileNotFoundError):
                await loop.subprocess_exec(Recorder, "/nowhere/program")
        assert loops.fd_count() == fds

    loops.run(loops.factory(loop_name), main())


# ---- giving up -----------------------------------------------------------------------------------


def test_close_kills(factory: Factory) -> None:
    async def main() -> None:
        transport, protocol = await recorded("/bin/cat")
        transport.close()
        assert transport.is_closing()
        await protocol.done
        assert transport.get_returncode() == -9
        await processes.gone(transport.get_pid())

    before = leftovers()
    loops.run(factory, main())
    assert leftovers() == before


def test_cancelled_wait(factory: Factory) -> None:
    async def main() -> None:
        process = await asyncio.create_subprocess_exec("/bin/cat", stdin=PIPE)
        waits = [asyncio.ensure_future(process.wait()) for _ in range(3)]
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(process.wait(), 0.01)
        waits[1].cancel()
        assert process.stdin is not None
        process.stdin.close()
        results = await asyncio.gather(*waits, return_exceptions=True)
        assert results[0] == results[2] == 0
        assert isinstance(results[1], asyncio.CancelledError)
        assert await process.wait() == 0

    loops.run(factory, main())


@pytest.mark.parametrize("turns", range(4))
def test_cancelled_start(factory: Factory, turns: int) -> None:
    """At whichever moment: the child is killed and reaped before the cancellation gets through."""
    before = leftovers()

    async def main() -> None:
        task = asyncio.ensure_future(recorded("/bin/cat"))
        for _ in range(turns):
            await asyncio.sleep(0)
        if task.cancel():
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            transport, protocol = task.result()
            transport.close()
            await protocol.done
        await asyncio.sleep(0)

    loops.run(factory, main())
    assert leftovers() == before


def test_pipe_that_cannot_be_connected(factory: Factory) -> None:
    before = leftovers()

    class Broken(Exception):
        pass

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()

        async def connect(*_: Any) -> Any:
            raise Broken

        loop.connect_read_pipe = connect
        with pytest.raises(Broken):
            # Without a pipe to stdin, which asyncio would go on waiting for.
            await loop.subprocess_exec(Recorder, "/bin/cat", stdin=None, stderr=None)

    if "taut" not in factory.__module__:
        pytest.skip("asyncio waits for pipes that nobody connects")
    loops.run(factory, main())
    assert leftovers() == before


def test_replaced_pipe_methods_are_used(factory: Factory) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        seen: list[str] = []

        def watched(name: str) -> Any:
            original = getattr(loop, name)

            async def connect(*args: Any) -> Any:
                seen.append(name)
                return await original(*args)

            return connect

        for name in ("connect_read_pipe", "connect_write_pipe"):
            setattr(loop, name, watched(name))
        process = await asyncio.create_subprocess_exec("/bin/cat", stdin=PIPE, stdout=PIPE)
        assert await process.communicate(b"x") == (b"x", None)
        assert sorted(seen) == ["connect_read_pipe", "connect_write_pipe"]

    loops.run(factory, main())


def test_replaced_popen_is_used(factory: Factory, monkeypatch: pytest.MonkeyPatch) -> None:
    """As tracing libraries and tests do it."""
    made: list[Any] = []
    original = subprocess.Popen

    class Traced(original):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            made.append(args[0])
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(subprocess, "Popen", Traced)

    async def main() -> None:
        process = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", "cat; exit 3", stdin=PIPE, stdout=PIPE
        )
        assert await process.communicate(b"x") == (b"x", None)
        assert process.returncode == 3

    loops.run(factory, main())
    assert made == [("/bin/sh", "-c", "cat; exit 3")]


def test_popen_of_an_unknown_python_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose inner steps have another form starts children by itself."""
    from taut import _subprocess

    monkeypatch.setattr(_subprocess, "_KNOWN", False)

    async def main() -> None:
        transport, protocol = await recorded("/bin/sh", "-c", "cat; exit 4", stderr=None)
        assert type(transport.get_extra_info("subprocess")) is subprocess.Popen
        transport.get_pipe_transport(0).write(b"x")
        transport.get_pipe_transport(0).close()
        await protocol.done
        assert (transport.get_returncode(), bytes(protocol.data[1])) == (4, b"x")

    loops.run(loops.factory("taut"), main())


def test_debug_mode_tells(factory: Factory, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        with caplog.at_level(logging.DEBUG, logger="asyncio"):
            transport, protocol = await recorded("/bin/cat", stderr=None)
            transport.close()
            await protocol.done
            process = await asyncio.create_subprocess_shell("exit 2")
            await process.wait()

    loops.run(factory, main(), debug=True)
    told = "\n".join(record.getMessage() for record in caplog.records)
    assert "execute program '/bin/cat' stdin=<pipe> stdout=<pipe>" in told
    assert "process '/bin/cat' created: pid " in told
    assert "Close running child process: kill <" in told
    assert "exited with return code -9" in told
    assert "run shell command 'exit 2': <" in told


# ---- loops that end before their children --------------------------------------------------------


def test_loop_closed_with_a_live_child(loop_name: str) -> None:
    """The transport warns as soon as it is dropped, and kills."""
    make = loops.factory(loop_name)
    loop = make()

    async def main() -> tuple[int, Recorder]:
        transport, protocol = await recorded("/bin/sleep", "100", **INHERITED)
        protocol.transport = None
        return transport.get_pid(), protocol

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pid, protocol = loop.run_until_complete(main())
        assert processes.state(pid) not in ("", "Z")
        loop.close()
        if loop_name != "taut":
            processes.end(pid)  # asyncio's thread keeps the transport
            return
        gc.collect()
    assert protocol.calls == ["connection_made"]
    messages = [str(warning.message) for warning in caught]
    caught.clear()  # each has its object
    assert any(f"unclosed transport <SubprocessTransport pid={pid} running>" == m for m in messages)
    # Popen keeps what nobody waited for, and reaps it when it is next used.
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    except ChildProcessError:
        pass  # it was quick
    subprocess.run(["/bin/true"], check=True)
    assert processes.state(pid) == ""


def test_transport_used_after_its_loop_is_closed(factory: Factory) -> None:
    loop = factory()

    async def main() -> Any:
        return (await recorded("/bin/sleep", "100", **INHERITED))[0]

    transport = loop.run_until_complete(main())
    loop.close()
    assert transport.get_returncode() is None
    transport.close()
    popen = transport.get_extra_info("subprocess")
    try:
        popen.wait(loops.DEADLINE_S)
    except ChildProcessError:
        pass
    assert processes.state(transport.get_pid()) == ""


def test_programs_may_end_with_children_alive(loop_name: str) -> None:
    code = """
    async def main():
        process = await asyncio.create_subprocess_exec("/bin/cat", stdin=-1, stdout=-1)
        print(process.pid, flush=True)
        return process
    loop = new_loop()
    kept = loop.run_until_complete(main())
    """
    done = loops.script(loop_name, code)
    pid = int(done.stdout)
    assert done.returncode == 0
    assert processes.state(pid) in ("", "Z", "S", "R")
    processes.end(pid)


def test_dropped_processes_leave_nothing_behind(factory: Factory) -> None:
    before = leftovers()

    async def main() -> None:
        for _ in range(5):
            await asyncio.create_subprocess_exec("/bin/true", stdin=PIPE, stdout=PIPE)
        await loops.until(lambda: not has_child(), "no child is left")

    loops.run(factory, main())
    assert leftovers() == before


def test_a_forked_process_leaves_its_parents_children_alone(loop_name: str) -> None:
    """It has copies of the transports; closing or dropping them reaches nobody."""
    if loop_name != "taut":
        pytest.skip("asyncio's child takes registrations out of the parent's epoll instance")
    code = """
    async def main():
        loop = asyncio.get_running_loop()
        transport, _ = await loop.subprocess_exec(
            asyncio.SubprocessProtocol, "/bin/cat", stdout=None, stderr=None)
        pid = os.fork()
        if pid == 0:
            transport.send_signal(9)
            transport.close()
            del transport
            gc.collect()
            os._exit(0)
        assert (await loop.run_in_executor(None, os.waitpid, pid, 0))[1] == 0
        assert transport.get_returncode() is None
        os.kill(transport.get_pid(), 0)
        transport.get_pipe_transport(0).close()
        assert await transport._wait() == 0
    loops.run(new_loop, main())
    """
    loops.ok(loops.script(loop_name, code))


def test_many_children_leave_no_memory(loop_name: str) -> None:
    if loop_name != "taut":
        pytest.skip("counts taut's memory")
    from taut import _core

    async def some(count: int) -> None:
        for _ in range(count):
            await output("/bin/true", stdin=PIPE)
            with pytest.raises(OSError):
                await output("/nowhere/program", stdin=PIPE)

    async def main() -> None:
        await some(20)
        gc.collect()
        blocks, objects = _core.mem_stats()["live_blocks"], len(gc.get_objects())
        await some(200)
        gc.collect()
        assert _core.mem_stats()["live_blocks"] <= blocks + 1  # an examination
        assert len(gc.get_objects()) <= objects + 20

    loops.run(loops.factory(loop_name), main())


# ---- named reports -------------------------------------------------------------------------------


def test_standard_streams_are_pipes_that_can_be_opened_again(factory: Factory) -> None:
    """/dev/stdin and /dev/stdout fail where they are sockets (uvloop's issues 505 and 532)."""

    async def main() -> None:
        process = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", "cat /dev/stdin > /dev/stdout; echo err > /dev/stderr",
            stdin=PIPE, stdout=PIPE, stderr=PIPE,
        )  # fmt: skip
        assert await process.communicate(b"text") == (b"text", b"err\n")
        shown = await sh("for fd in 0 1; do [ -p /dev/fd/$fd ] && echo pipe; done", stdin=PIPE)
        assert shown == b"pipe\npipe\n"

    loops.run(factory, main())


def test_no_fork_hook_runs(loop_name: str) -> None:
    """os.register_at_fork is for children that go on with Python (uvloop's issue 749)."""
    code = """
    ran = []
    os.register_at_fork(before=lambda: ran.append("before"),
                        after_in_parent=lambda: ran.append("parent"),
                        after_in_child=lambda: ran.append("child"))
    async def main():
        for options in ({}, {"user": os.geteuid()}, {"start_new_session": True}):
            process = await asyncio.create_subprocess_exec("/bin/true", **options)
            assert await process.wait() == 0
    loops.run(new_loop, main())
    assert ran == [], ran
    """
    loops.ok(loops.script(loop_name, code))


def test_preexec_fn_does_not_hold_the_loop_for_ever(factory: Factory) -> None:
    """A lock that another thread holds while the process forks (uvloop's issue 118)."""
    lock = threading.Lock()
    stop = threading.Event()

    def hold() -> None:
        while not stop.is_set():
            with lock:
                pass

    async def main() -> None:
        for _ in range(3):
            assert await sh("echo x", preexec_fn=os.setsid) == b"x\n"

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        loops.run(factory, main())
    finally:
        stop.set()
        thread.join()
