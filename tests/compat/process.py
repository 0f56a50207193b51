"""A process that runs tests and says what it does, a JSON object a line."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar


class Worker:
    """One such process, in a session of its own. It writes its records to `path`."""

    live: ClassVar[set[Worker]] = set()

    def __init__(self, command: list[str], path: str, directory: str | Path,
                 environment: dict[str, str], limit_s: float, user: str | None = None) -> None:
        self.path = path
        self.limit_s = limit_s
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self.errors, stderr=self.errors,
            cwd=directory, env=environment, start_new_session=True,
            user=user,
        )
        self.live.add(self)

    def wait(self) -> str:
        """Waits while records keep coming. How it ended: "", "crash" or "hang"."""
        size, changed = -1, time.monotonic()
        while True:
            try:
                status = self.process.wait(0.05)
                break
            except subprocess.TimeoutExpired:
                now = os.path.getsize(self.path) if os.path.exists(self.path) else 0
                if now != size:
                    size, changed = now, time.monotonic()
                elif time.monotonic() - changed > self.limit_s:
                    self.kill()
                    return "hang"
        self.kill()  # children that a test left behind
        return "crash" if status else ""

    def kill(self) -> None:
        """Ends the worker's whole session; a hanging one shows its stacks first."""
        self.live.discard(self)
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGUSR1)
            time.sleep(0.3)  # blocks: faulthandler has no way to say that it is done
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()

    @classmethod
    def end_all(cls) -> None:
        """Ends every worker's session: nobody is left to wait for them."""
        for worker in list(cls.live):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.process.pid, signal.SIGKILL)

    def records(self) -> list[dict[str, Any]]:
        if not os.path.exists(self.path):
            return []
        with open(self.path, encoding="utf-8") as stream:
            lines = stream.read().splitlines()
        return [json.loads(line) for line in lines if line.endswith("}")]

    def tail(self) -> str:
        self.errors.seek(0)
        text = self.errors.read().decode("utf-8", "replace")
        return text[-3000:]

    def close(self) -> None:
        self.errors.close()
        if os.path.exists(self.path):
            os.unlink(self.path)
