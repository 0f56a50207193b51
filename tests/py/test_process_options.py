"""Every option of subprocess.Popen does on a loop what it does there."""

from __future__ import annotations

import asyncio
import grp
import os
import pathlib
import pwd
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import loops
import processes
import pytest
from loops import Factory
from processes import output, python, sh

PIPE, DEVNULL, STDOUT = subprocess.PIPE, subprocess.DEVNULL, subprocess.STDOUT

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")


def test_program_and_arguments(factory: Factory) -> None:
    async def main() -> None:
        shown = await python("import sys; print(ascii(sys.argv[1:]))")
        assert shown == b"[]\n"
        code, out = await output(
            sys.executable, "-c", "import sys; print(ascii(sys.argv[1:]))",
            "a b", b"\xff", "\udcfe", "é", pathlib.Path("/p"),
        )  # fmt: skip
        assert (code, out) == (0, rb"['a b', '\udcff', '\udcfe', '\xe9', '/p']" + b"\n")
        code, out = await output(pathlib.Path("/bin/echo"), "x")
        assert (code, out) == (0, b"x\n")

    loops.run(factory, main())


def test_shell(factory: Factory) -> None:
    async def main() -> None:
        for command in ("echo $0; exit 3", b"echo $0; exit 3"):
            process = await asyncio.create_subprocess_shell(command, stdout=PIPE)
            out, _ = await process.communicate()
            assert (out, process.returncode) == (b"/bin/sh\n", 3)
        process = await asyncio.create_subprocess_shell(
            "echo $0", stdout=PIPE, executable="/bin/bash"
        )
        assert await process.communicate() == (b"/bin/bash\n", None)

    loops.run(factory, main())


def test_executable(factory: Factory) -> None:
    async def main() -> None:
        code, out = await output("renamed", "-c", "echo $0", executable="/bin/sh")
        assert (code, out) == (0, b"renamed\n")

    loops.run(factory, main())


def test_cwd(factory: Factory, tmp_path: pathlib.Path) -> None:
    async def main() -> None:
        for cwd in (tmp_path, str(tmp_path), os.fsencode(tmp_path)):
            assert await sh("pwd -P", cwd=cwd) == os.fsencode(tmp_path.resolve()) + b"\n"
        # A relative program is looked for from there.
        program = tmp_path / "program"
        program.write_text("#!/bin/sh\necho here\n")
        program.chmod(0o755)
        assert await output("./program", cwd=tmp_path) == (0, b"here\n")

    loops.run(factory, main())


def test_env(factory: Factory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAUT_TEST_SEEN", "yes")

    async def main() -> None:
        assert await sh("echo $TAUT_TEST_SEEN") == b"yes\n"
        env: dict[Any, Any] = {"ONE": "1=1", b"TWO": b"\xff", "EMPTY": ""}
        code, out = await output("/usr/bin/env", env=env)
        assert (code, sorted(out.splitlines())) == (0, [b"EMPTY=", b"ONE=1=1", b"TWO=\xff"])
        assert await output("/usr/bin/env", env={}) == (0, b"")

    loops.run(factory, main())


def test_path_is_searched(
    factory: Factory, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for directory in (one, two):
        directory.mkdir()
    (two / "taut-program").write_text("#!/bin/sh\necho two\n")
    (two / "taut-program").chmod(0o755)
    monkeypatch.setenv("PATH", f"/nowhere:{one}:{two}")

    async def main() -> None:
        assert await output("taut-program") == (0, b"two\n")
        # The child's environment decides, when it is given.
        assert await output("taut-program", env={"PATH": f"{two}/"}) == (0, b"two\n")
        with pytest.raises(FileNotFoundError):
            await output("taut-program", env={"PATH": str(one)})
        # What is there but cannot be run is the error, whatever comes later.
        (one / "taut-program").write_text("")
        with pytest.raises(PermissionError) as caught:
            await output("taut-program", env={"PATH": f"{one}:/nowhere"})
        assert caught.value.filename == "taut-program"

    loops.run(factory, main())


def test_umask(factory: Factory) -> None:
    async def main() -> None:
        assert await sh("umask", umask=0o27) == b"0027\n"
        before = os.umask(0o22)
        os.umask(before)
        assert await sh("umask") == b"%04o\n" % before

    loops.run(factory, main())


IDS = """
import os
print(os.getresuid(), os.getresgid(), sorted(os.getgroups()))
"""


@root_only
def test_user_and_group(factory: Factory) -> None:
    nobody, group = pwd.getpwnam("nobody"), grp.getgrgid(pwd.getpwnam("nobody").pw_gid)
    mine = sorted(os.getgroups())

    async def main() -> None:
        for user, gid in ((nobody.pw_uid, group.gr_gid), (nobody.pw_name, group.gr_name)):
            shown = await sh(
                "cat /proc/self/status | grep -E '^(Uid|Gid|Groups)' | tr -s '\\t\\n' '  '",
                user=user, group=gid, extra_groups=[7, "daemon"],
            )  # fmt: skip
            uid, gid_number = nobody.pw_uid, group.gr_gid
            daemon = grp.getgrnam("daemon").gr_gid
            expected = f"Uid: {uid} {uid} {uid} {uid} Gid: {gid_number} {gid_number} "
            expected += f"{gid_number} {gid_number} Groups: {min(7, daemon)} {max(7, daemon)} "
            assert shown.decode() == expected
        assert (await python(IDS, extra_groups=[])).endswith(b" []\n")
        assert (await python(IDS)).decode() == f"(0, 0, 0) (0, 0, 0) {mine}\n"
        assert os.getresuid() == (0, 0, 0)

    loops.run(factory, main())


@root_only
def test_a_child_with_other_ids_leaves_the_parent_dumpable(loop_name: str) -> None:
    """The memory that the child would share becomes undumpable when it changes its ids."""
    code = """
    import ctypes
    async def main():
        process = await asyncio.create_subprocess_exec("/bin/true", user=65534, group=65534)
        assert await process.wait() == 0
    loops.run(new_loop, main())
    print(ctypes.CDLL(None).prctl(3))
    """
    assert loops.ok(loops.script(loop_name, code)) == "1\n"


GROUP = "read pid rest < /proc/self/stat; set -- ${rest#*) }; echo $3"
SESSION = "read pid rest < /proc/self/stat; set -- ${rest#*) }; echo $(($3 == $$)) $(($4 == $$))"


def test_session_and_process_group(factory: Factory) -> None:
    async def main() -> None:
        assert await sh(SESSION) == b"0 0\n"
        assert await sh(SESSION, start_new_session=True) == b"1 1\n"
        assert await sh(SESSION, process_group=0) == b"1 0\n"
        leader, _ = await processes.recorded("/bin/cat", process_group=0)
        try:
            group = leader.get_pid()
            assert await sh(GROUP, process_group=group) == b"%d\n" % group
        finally:
            leader.close()
            await leader._wait()

    loops.run(factory, main())


def test_pass_fds(factory: Factory) -> None:
    async def main() -> None:
        kept, dropped = os.open("/dev/null", os.O_RDONLY), os.open("/dev/null", os.O_RDONLY)
        os.set_inheritable(dropped, True)
        script = f"[ -e /proc/$$/fd/{kept} ] && echo kept; [ -e /proc/$$/fd/{dropped} ] || echo no"
        try:
            assert await sh(script, pass_fds=[kept]) == b"kept\nno\n"
            assert await sh(script, pass_fds={kept, 0, 1}) == b"kept\nno\n"
            assert not os.get_inheritable(kept)  # here it stays as it was
            assert await sh(script, close_fds=False) == b""
            assert await sh(script) == b"no\n"
            with pytest.warns(RuntimeWarning, match="pass_fds overriding close_fds"):
                assert await sh(script, close_fds=False, pass_fds=[kept]) == b"kept\nno\n"
        finally:
            os.close(kept)
            os.close(dropped)

    loops.run(factory, main())


def test_restore_signals(factory: Factory) -> None:
    async def main() -> None:
        show = "grep SigIgn /proc/self/status"
        for options, ignored in (({}, False), ({"restore_signals": False}, True)):
            mask = int((await sh(show, **options)).split()[1], 16)
            assert bool(mask & 1 << signal.SIGPIPE - 1) is ignored

    assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN
    loops.run(factory, main())


def test_signal_mask_and_handlers_are_not_inherited(factory: Factory) -> None:
    async def main() -> None:
        before = signal.signal(signal.SIGUSR1, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
        try:
            status = await sh("exec /bin/cat /proc/self/status", env={})
            shown = dict(
                line.split(b":\t") for line in status.splitlines()
                if line.startswith(b"Sig") and line[3:6] in (b"Blk", b"Cgt")
            )  # fmt: skip
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])
            signal.signal(signal.SIGUSR1, before)
        assert int(shown[b"SigCgt"], 16) == 0
        assert int(shown[b"SigBlk"], 16) == 1 << signal.SIGUSR2 - 1

    loops.run(factory, main())


def test_pipesize(factory: Factory) -> None:
    import fcntl

    async def main() -> None:
        transport, _ = await processes.recorded("/bin/cat", pipesize=16384)
        for fd in (0, 1, 2):
            pipe = transport.get_pipe_transport(fd).get_extra_info("pipe")
            assert fcntl.fcntl(pipe.fileno(), fcntl.F_GETPIPE_SZ) == 16384
        transport.close()
        await transport._wait()

    loops.run(factory, main())


def test_preexec_fn(factory: Factory) -> None:
    async def main() -> None:
        assert await sh("echo $((SECRET + 1))", preexec_fn=lambda: os.putenv("SECRET", "41")) == (
            b"42\n"
        )
        with pytest.raises(subprocess.SubprocessError, match="preexec_fn"):
            await sh(":", preexec_fn=lambda: 1 / 0)
        # Such a child ends and is signalled like any other.
        transport, protocol = await processes.recorded("/bin/cat", preexec_fn=lambda: None)
        transport.terminate()
        await protocol.done
        assert transport.get_returncode() == -signal.SIGTERM

    loops.run(factory, main())


# ---- standard streams --------------------------------------------------------------------------


def test_streams_as_files_and_fds(factory: Factory, tmp_path: pathlib.Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"some text")

    async def copy(stdin: Any, stdout: Any) -> None:
        process = await asyncio.create_subprocess_exec("/bin/cat", stdin=stdin, stdout=stdout)
        assert process.stdin is None and process.stdout is None
        assert await process.wait() == 0

    async def main() -> None:
        with source.open("rb") as stdin, target.open("wb") as stdout:
            await copy(stdin, stdout)
        assert target.read_bytes() == b"some text"
        with source.open("rb") as stdin, target.open("wb") as stdout:
            await copy(stdin.fileno(), stdout.fileno())
        assert target.read_bytes() == b"some text"
        await copy(DEVNULL, DEVNULL)
        one, two = socket.socketpair()
        with one, two:
            one.sendall(b"through a socket")
            one.shutdown(socket.SHUT_WR)
            with target.open("wb") as stdout:
                await copy(two, stdout)
        assert target.read_bytes() == b"through a socket"

    loops.run(factory, main())


def test_stderr(factory: Factory) -> None:
    async def main() -> None:
        script = "echo out; echo err >&2"
        process = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", script, stdout=PIPE, stderr=PIPE
        )
        assert await process.communicate() == (b"out\n", b"err\n")
        assert await sh(script, stderr=STDOUT) == b"out\nerr\n"
        assert await sh(script, stderr=DEVNULL) == b"out\n"

    loops.run(factory, main())


TRADED = """
import asyncio, sys
async def main():
    process = await asyncio.create_subprocess_exec(
        "/bin/sh", "-c", "echo out; echo err >&2", stdout=2, stderr=1)
    assert await process.wait() == 0
    # stdout as the parent's own, into which stderr goes.
    process = await asyncio.create_subprocess_exec(
        "/bin/sh", "-c", "echo more >&2", stderr=asyncio.subprocess.STDOUT)
    assert await process.wait() == 0
loops.run(new_loop, main())
"""


def test_standard_fds_may_trade_places(loop_name: str) -> None:
    done = loops.script(loop_name, TRADED)
    assert (done.returncode, done.stdout, done.stderr) == (0, "err\nmore\n", "out\n")


CLOSED = """
import os
for fd in (0, 1, 2):
    os.close(fd)
result = os.open(sys.argv[1], os.O_WRONLY)  # is 0
async def main():
    process = await asyncio.create_subprocess_exec(
        "/bin/sh", "-c", "read line; echo got $line; echo err >&2", stdin=-1, stdout=-1, stderr=-1)
    out = await process.communicate(b"line\\n")
    os.write(result, repr((out, process.returncode)).encode())
loops.run(new_loop, main())
"""


def test_parent_without_standard_fds(loop_name: str, tmp_path: pathlib.Path) -> None:
    result = tmp_path / "result"
    result.touch()
    loops.ok(loops.script(loop_name, CLOSED, str(result)))
    assert result.read_text() == "((b'got line\\n', b'err\\n'), 0)"


# ---- errors --------------------------------------------------------------------------------------


def outcome(call: Callable[[], Any]) -> tuple[Any, ...]:
    """What is raised, in full."""
    try:
        call()
    except Exception as exc:
        names = getattr(exc, "filename", None), getattr(exc, "filename2", None)
        return type(exc), str(exc), exc.args, names
    raise AssertionError("nothing was raised")


class Opaque:
    """An object that no option takes."""

    def __repr__(self) -> str:
        return "<Opaque>"


BAD: list[tuple[list[Any], dict[str, Any]]] = [
    (["/nowhere/program"], {}),
    (["no-such-program"], {}),
    (["./no-such-program"], {}),
    ([b"/nowhere/program"], {}),
    ([pathlib.Path("/nowhere/program")], {}),
    (["/etc/passwd"], {}),
    (["/etc/passwd/x"], {}),
    (["/bin/true"], {"executable": "/nowhere/other"}),
    (["/bin/true"], {"executable": b""}),
    ([""], {}),
    (["/bin/true"], {"cwd": "/nowhere"}),
    (["/bin/true"], {"cwd": pathlib.Path("/nowhere")}),
    (["/nowhere/program"], {"cwd": "/nowhere"}),
    (["/bin/true"], {"cwd": "/etc/passwd"}),
    (["/bin/true"], {"cwd": 5}),
    (["/bin/true", "a\0b"], {}),
    (["/bin/tr\0ue"], {}),
    (["/bin/true", 5], {}),
    ([5], {}),
    ([None], {}),
    (["/bin/true"], {"env": {"A": "b\0"}}),
    (["/bin/true"], {"env": {"A=B": "c"}}),
    (["/bin/true"], {"env": {"A": 5}}),
    (["/bin/true"], {"env": {5: "a"}}),
    (["/bin/true"], {"env": [("A", "B")]}),
    (["true"], {"env": {"PATH": "/bin", b"PATH": b"/bin"}}),
    (["/bin/true"], {"pass_fds": [-1]}),
    (["/bin/true"], {"pass_fds": [987]}),
    (["/bin/true"], {"pass_fds": [1 << 40]}),
    (["/bin/true"], {"pass_fds": ["x"]}),
    (["/bin/true"], {"pass_fds": 5}),
    (["/bin/true"], {"pass_fds": [0, "0"]}),
    (["/bin/true"], {"stdin": 987}),
    (["/bin/true"], {"stdin": -7}),
    (["/bin/true"], {"stdout": Opaque}),
    (["/bin/true"], {"umask": "x"}),
    (["/bin/true"], {"umask": 1 << 40}),
    (["/bin/true"], {"user": -3}),
    (["/bin/true"], {"user": 1.5}),
    (["/bin/true"], {"user": "no such user"}),
    (["/bin/true"], {"user": 1 << 40}),
    (["/bin/true"], {"group": -3}),
    (["/bin/true"], {"group": "no such group"}),
    (["/bin/true"], {"group": 1 << 40}),
    (["/bin/true"], {"extra_groups": "daemon"}),
    (["/bin/true"], {"extra_groups": [-3]}),
    (["/bin/true"], {"extra_groups": [1.5]}),
    (["/bin/true"], {"extra_groups": [1 << 40]}),
    (["/bin/true"], {"extra_groups": list(range(70000))}),
    (["/bin/true"], {"umask": -(1 << 40)}),
    (["/bin/true"], {"umask": 1 << 70}),
    (["/bin/true"], {"umask": 1.5}),
    (["/bin/true"], {"user": 1 << 70}),
    (["/bin/true"], {"group": 1 << 70}),
    (["/bin/true"], {"process_group": 1}),
    (["/bin/true"], {"process_group": 1, "cwd": "/"}),
    (["/bin/true"], {"process_group": "x"}),
    (["/bin/true"], {"process_group": 1 << 40}),
    (["/bin/true"], {"pipesize": "x", "stdin": PIPE}),
    (["/bin/true"], {"startupinfo": 1}),
    (["/bin/true"], {"creationflags": 1}),
    (["/bin/true"], {"no_such_option": 1}),
]


@pytest.mark.parametrize(
    "case", range(len(BAD)), ids=lambda n: f"{BAD[n][0][0]!r}-{BAD[n][1]!r}"[:60]
)
def test_errors_are_those_of_popen(
    factory: Factory, case: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # posix_spawn(), which 3.13 takes for the simplest calls, words some errors in its own way.
    monkeypatch.setattr(subprocess, "_USE_POSIX_SPAWN", False)
    args, options = BAD[case]
    if options == {"process_group": 1 << 40} and sys.version_info[:2] == (3, 12):
        pytest.skip("3.12 takes the lower half of the number")
    expected = outcome(lambda: subprocess.Popen(args, **options))
    fds = loops.fd_count()

    async def main() -> None:
        await asyncio.create_subprocess_exec(*args, **options)

    assert outcome(lambda: loops.run(factory, main())) == expected
    assert loops.fd_count() == fds
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.parametrize("options", [
    {"universal_newlines": True}, {"bufsize": 1}, {"text": True}, {"encoding": "utf-8"},
    {"errors": "strict"}, {"shell": True},
], ids=str)  # fmt: skip
def test_options_that_loops_refuse(factory: Factory, options: dict[str, Any]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        name, value = next(iter(options.items()))
        with pytest.raises(ValueError, match=f"{name} must be"):
            await loop.subprocess_exec(asyncio.SubprocessProtocol, "/bin/true", **options)
        refused: dict[str, Any] = {"shell": False} if name == "shell" else options
        with pytest.raises(ValueError, match=f"{name} must be"):
            await loop.subprocess_shell(asyncio.SubprocessProtocol, "true", **refused)
        with pytest.raises(ValueError, match="cmd must be a string"):
            await loop.subprocess_shell(asyncio.SubprocessProtocol, ["true"])  # type: ignore[arg-type]

    loops.run(factory, main())


def test_audit_hooks_hear_of_it(loop_name: str) -> None:
    code = """
    heard = []
    sys.addaudithook(lambda event, args: event == "subprocess.Popen" and heard.append(args))
    async def main():
        process = await asyncio.create_subprocess_exec("true", "x", cwd="/", env={"PATH": "/bin"})
        await process.wait()
        process = await asyncio.create_subprocess_shell("true")
        await process.wait()
    loops.run(new_loop, main())
    assert heard == [
        ("true", ["true", "x"], "/", {"PATH": "/bin"}),
        ("/bin/sh", ["/bin/sh", "-c", "true"], None, None),
    ], heard
    """
    loops.ok(loops.script(loop_name, code))


def test_audit_hooks_may_refuse(loop_name: str) -> None:
    code = """
    def hook(event, args):
        if event == "subprocess.Popen":
            raise PermissionError("not here")
    sys.addaudithook(hook)
    async def main():
        fds = loops.fd_count()
        try:
            await asyncio.create_subprocess_exec("true", stdin=-1, stdout=-1, stderr=-1)
        except PermissionError as exc:
            assert str(exc) == "not here"
        else:
            raise AssertionError("started")
        assert loops.fd_count() == fds
    loops.run(new_loop, main())
    """
    loops.ok(loops.script(loop_name, code))


@root_only
def test_no_more_processes_allowed(loop_name: str) -> None:
    """The kernel refuses to make the child: an OSError, and no fd lost."""
    code = """
    import resource
    async def main():
        await (await asyncio.create_subprocess_exec("/bin/true")).wait()
        fds = loops.fd_count()
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        try:
            await asyncio.create_subprocess_exec("/bin/true", stdin=-1, stdout=-1)
        except BlockingIOError as exc:
            assert exc.filename in (None, "/bin/true")  # posix_spawn() has one
        else:
            raise AssertionError("started")
        assert loops.fd_count() == fds
    loops.run(new_loop, main())
    """
    loops.ok(loops.script(loop_name, code))
