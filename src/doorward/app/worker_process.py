"""One worker process as the supervisor sees it: started with an inherited bus socket, ended with it."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from doorward.adapters.bus import Peer

WORKER_MODULE = "doorward.app.worker"
# Large, long-lived buffers come and go with streams: keep the allocator from returning and fetching them all the time.
_MALLOC = {
    "MALLOC_TRIM_THRESHOLD_": "268435456",
    "MALLOC_TOP_PAD_": "16777216",
    "MALLOC_MMAP_THRESHOLD_": "33554432",
}
_EXIT_SECONDS = 3.0


class WorkerProcess:
    """A started worker. ``on_gone`` is called once when the process has ended."""

    def __init__(self, index: int, process: subprocess.Popen[bytes], peer: Peer) -> None:
        self.index = index
        self.peer = peer
        self.is_ready = False
        self.was_ready = False  # it has served at some time: its end is no failed start
        self.numbers: dict[str, Any] = {}
        self.started_at = time.monotonic()
        self._process = process
        self._watch: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @classmethod
    async def start(
        cls,
        index: int,
        counters_fd: int,
        on_gone: Callable[[WorkerProcess, int], None],
        module: str = WORKER_MODULE,
    ) -> WorkerProcess:
        """Start the process. Raises: OSError."""
        ours, theirs = socket.socketpair()
        try:
            environment = {
                **os.environ,
                **{name: value for name, value in _MALLOC.items() if name not in os.environ},
                "DOORWARD_BUS_FD": str(theirs.fileno()),
                "DOORWARD_WORKER_INDEX": str(index),
                "DOORWARD_COUNTERS_FD": str(counters_fd),
            }
            process = subprocess.Popen(
                [sys.executable, "-m", module],
                env=environment,
                pass_fds=(theirs.fileno(), counters_fd),
                stdin=subprocess.DEVNULL,
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        worker = cls(index, process, await Peer.over(ours))
        worker._watch = asyncio.get_running_loop().create_task(worker._wait(on_gone))
        return worker

    async def _wait(self, on_gone: Callable[[WorkerProcess, int], None]) -> None:
        gone = asyncio.Event()
        self.peer.on_close = lambda _: gone.set()
        if self.peer.is_lost:
            gone.set()
        await gone.wait()
        # The bus ends with the process, or the process ends because of the bus.
        code = await asyncio.to_thread(self._reap)
        self.is_ready = False
        on_gone(self, code)

    def _reap(self) -> int:
        try:
            return self._process.wait(_EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def kill(self) -> None:
        """End it at once."""
        if self._process.poll() is None:
            self._process.kill()

    async def ended(self) -> None:
        """Wait until the process is gone and reported."""
        if self._watch is not None:
            await asyncio.wait({self._watch})


StartWorker = Callable[[int, int, Callable[[WorkerProcess, int], None]], Awaitable[WorkerProcess]]
