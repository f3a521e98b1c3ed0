"""A whole Doorward in one process, for one client that speaks over stdio and one server that it starts.

The supervisor and its one worker share the event loop and speak over the same bus as they do between processes, so that nothing
of either is different here. Several clients may wrap the same server at once: each takes the first free slot of its folder, with
keys and a ledger of its own, and begins with the pins of the first.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from doorward.adapters.bus import Peer
from doorward.adapters.outbox import Outbox
from doorward.adapters.state import FILE
from doorward.adapters.stdio_in import StdioFace
from doorward.app.client_face import OpenFace
from doorward.app.supervisor import Supervisor
from doorward.app.worker import Worker
from doorward.app.worker_process import WorkerProcess
from doorward.base.errors import OperatorError
from doorward.gateway.facts import FactBook
from doorward.gateway.front import Gateway
from doorward.identity.metadata import endpoint_path
from doorward.identity.principal import Principal
from doorward.settings import Loaded

_LAST_WORDS_SECONDS = 0.1  # for the supervisor to read why its worker ends, before it hears that it has
SLOTS_COUNT = 16  # clients that wrap the same server at once


class InnerWorker(WorkerProcess):
    """A worker in the supervisor's own process."""

    def __init__(self, index: int, peer: Peer) -> None:
        self.index = index
        self.peer = peer
        self.is_ready = self.was_ready = False
        self.numbers: dict[str, Any] = {}
        self.started_at = time.monotonic()
        self._run: asyncio.Task[int] | None = None

    @property
    def pid(self) -> int:
        """The process id."""
        return os.getpid()

    @classmethod
    async def begin(
        cls, index: int, counters_fd: int, on_gone: Callable[[WorkerProcess, int], None], open_face: OpenFace
    ) -> InnerWorker:
        """Start it."""
        ours, theirs = socket.socketpair()
        inner = await Peer.over(theirs)
        worker = cls(index, await Peer.over(ours))

        async def run() -> int:
            code = 1  # a bug ends it like a process that dies: the supervisor hears of it
            try:
                code = await Worker(index, counters_fd, inner, open_face).run()
                if code:
                    await asyncio.sleep(_LAST_WORDS_SECONDS)
            finally:
                inner.close()
                worker.is_ready = False
                on_gone(worker, code)
            return code

        worker._run = asyncio.get_running_loop().create_task(run())
        return worker

    def kill(self) -> None:
        """End it at once."""
        if self._run is not None:
            self._run.cancel()

    async def ended(self) -> None:
        """Wait until it has ended."""
        if self._run is not None:
            await asyncio.wait({self._run})


class Wrapped:
    """One client, one server."""

    def __init__(self, loaded: Loaded, server: str) -> None:
        self._loaded = loaded
        self._server = server
        self._supervisor: Supervisor | None = None
        self._is_open = False

    def run(self) -> int:
        """Serve stdin and stdout until the client closes them. Raises: DoorwardError when it cannot start."""
        base = Path(self._loaded.settings.gateway.data_dir)
        for slot in range(1, SLOTS_COUNT + 1):
            data_dir = base if slot == 1 else base.with_name(f"{base.name}-{slot}")
            try:
                return self._run_in(data_dir, base)
            except OperatorError as error:
                if error.code != "data-dir-busy" or slot == SLOTS_COUNT:
                    raise
        return 3

    def _run_in(self, data_dir: Path, base: Path) -> int:
        settings = self._loaded.settings
        gateway = msgspec.structs.replace(settings.gateway, data_dir=str(data_dir), workers=1)
        loaded = msgspec.structs.replace(
            self._loaded, settings=msgspec.structs.replace(settings, gateway=gateway)
        )
        if data_dir != base:
            _copy_state(base, data_dir)

        async def begin(
            index: int, counters_fd: int, on_gone: Callable[[WorkerProcess, int], None]
        ) -> WorkerProcess:
            return await InnerWorker.begin(index, counters_fd, on_gone, self._open_face)

        async def whole() -> int:
            self._supervisor = Supervisor(loaded, start_worker=begin, admin="socket")
            return await self._supervisor.run()

        return asyncio.run(whole())

    async def _open_face(self, gateway: Gateway, outbox: Outbox, facts: FactBook) -> StdioFace:
        if (
            self._is_open
        ):  # the worker ended, and the client's session with it: the client must see an end, not silence
            self._over()
            raise OperatorError("wrap-stdio", "The client's session is lost; this Doorward ends.")
        self._is_open = True
        own = f"os:{os.geteuid()}"
        gateway.nobody = Principal(
            tenant="local", issuer="local", subject=own, client="stdio", roles=("user",)
        )
        face = StdioFace(
            gateway,
            outbox,
            endpoint_path(self._server),
            self._loaded.settings.gateway.listen,
            lambda message: facts.schema_of(self._server, message),
            self._over,
        )
        await face.open()
        return face

    def _over(self) -> None:
        if self._supervisor is not None:
            self._supervisor.stop()


def _copy_state(base: Path, data_dir: Path) -> None:
    """Begin with the pins and revocations of the first slot. Raises: OperatorError."""
    if not (base / FILE).exists():
        return
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        packages = data_dir / "packages"
        if (base / "packages").is_dir() and not packages.exists():
            packages.symlink_to(base / "packages")
        source = sqlite3.connect(f"file:{base / FILE}?mode=ro", uri=True)
        target = sqlite3.connect(data_dir / FILE)
        try:
            source.backup(target)
        finally:
            source.close()
            target.close()
        (data_dir / FILE).chmod(0o600)
    except (sqlite3.Error, OSError) as error:
        raise OperatorError(
            "data-dir-unusable",
            "The state of the first client of this server cannot be read.",
            type(error).__name__,
        ) from error
