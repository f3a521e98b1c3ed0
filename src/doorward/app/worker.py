"""One worker process: the data plane on one event loop, fed with snapshots by the supervisor.

Started as ``python -m doorward.app.worker`` with an inherited bus socket; ends when the bus does.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import secrets
import signal
import socket
import sys
from typing import Any

from doorward.adapters.bus import Channel, Peer
from doorward.adapters.logs import configure_logs
from doorward.app.client_face import OpenFace
from doorward.app.data_plane import DataPlane
from doorward.base.errors import DoorwardError, StoreError

_log = logging.getLogger("doorward.worker")
_TICK_SECONDS = 0.5
_KEEP_ALIVE_SECONDS = 15.0
_SWITCH_SECONDS = 0.0005


class Worker:
    """The life of one worker: hello, snapshot, ready, serve, drain."""

    def __init__(self, index: int, counters_fd: int, peer: Peer, open_face: OpenFace | None = None) -> None:
        self._index = index
        self._counters_fd = counters_fd
        self._peer = peer
        self._open_face = open_face
        self._plane: DataPlane | None = None
        self._over = asyncio.Event()
        self._draining = False
        self._early_pins: list[Any] = []  # heard between the first snapshot and the plane that is made of it
        self._catching_up: asyncio.Task[None] | None = None

    async def run(self) -> int:
        """Serve until told to stop. Returns the exit code."""
        peer = self._peer
        peer.on_tell("tick", self._tick)
        peer.on_tell("snapshot", self._snapshot)
        peer.on_tell("drain", self._drain)
        peer.on_tell("pins", self._pins)
        peer.on_tell("list-changed", self._list_changed)
        peer.on_close = self.lost
        hello = peer.ask("hello", {"index": self._index, "pid": os.getpid()}, timeout_seconds=20.0)
        asking = asyncio.get_running_loop().create_task(hello)
        await asyncio.sleep(
            0
        )  # it is on its way; what the snapshot will need is loaded while the supervisor makes it
        _load_ahead()
        payload = await asking
        if not payload:
            return 0  # the whole is stopping
        incarnation = secrets.token_bytes(8)
        plane = DataPlane(
            self._index, incarnation, self._counters_fd, peer, self._store_failed, self._open_face
        )
        try:
            await plane.start(payload)
        except (DoorwardError, OSError) as error:
            return self._give_up(error)
        self._plane = plane
        for rows in self._early_pins:
            plane.adopt_pins(rows)
        self._early_pins.clear()
        peer.accept("relay", self._accept_relay)
        # Everything built so far lives as long as the process: keep the collector away from it.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        # The ledger's thread works in Python as well: it must not hold up a loop turn for the usual 5 ms.
        sys.setswitchinterval(_SWITCH_SECONDS)
        peer.tell("ready", {"index": self._index, "port": plane.port})
        rounds = asyncio.get_running_loop().create_task(self._rounds(plane))
        await self._over.wait()
        rounds.cancel()
        await plane.stop()
        return 0

    def _give_up(self, error: DoorwardError | OSError) -> int:
        """Tell the supervisor why there is no serving, so that it can tell the operator."""
        if isinstance(error, DoorwardError):
            code, tell = error.code, error.tell
        elif error.errno == errno.EADDRINUSE:
            code, tell = (
                "listen-in-use",
                "Something else listens on gateway.listen; stop it or choose another port.",
            )
        else:
            code, tell = "listen-failed", f"gateway.listen cannot be used: {os.strerror(error.errno or 0)}."
        self._peer.tell("failed", {"code": code, "tell": tell})
        return 3

    def _tick(self, payload: Any) -> None:
        plane = self._plane
        if plane is None:
            return
        generation = int(payload["generation"])
        plane.freshness.tick(generation)
        if generation > plane.gateway.snapshot.generation and self._catching_up is None:
            self._catching_up = asyncio.get_running_loop().create_task(self._catch_up())

    async def _catch_up(self) -> None:
        """A snapshot went by while this worker was starting: fetch the one in force."""
        try:
            if payload := await self._peer.ask("hello", {"index": self._index, "pid": os.getpid()}):
                self._snapshot(payload)
        finally:
            self._catching_up = None

    def _snapshot(self, payload: Any) -> None:
        if self._plane is not None:
            self._plane.renew(payload)
            self._peer.tell(
                "metrics", self._plane.numbers()
            )  # so that the supervisor knows what is in force here

    def _pins(self, payload: Any) -> None:
        if self._plane is not None:
            self._plane.adopt_pins(payload)
        else:
            self._early_pins.append(payload)

    def _list_changed(self, payload: Any) -> None:
        if self._plane is not None:
            self._plane.list_changed(str(payload["server"]))

    def _accept_relay(self, payload: Any, channel: Channel) -> None:
        if self._plane is not None:
            self._plane.accept_relay(payload, channel)

    def _drain(self, payload: Any) -> None:
        if self._draining:
            return
        self._draining = True
        if self._plane is None:  # still starting: it ends as soon as it has
            self._over.set()
            return
        seconds = float((payload or {}).get("seconds", 10.0))
        self._draining_task = asyncio.get_running_loop().create_task(self._drained(self._plane, seconds))

    async def _drained(self, plane: DataPlane, seconds: float) -> None:
        await plane.drain(seconds)
        self._over.set()

    def lost(self, reason: str) -> None:
        """The bus has ended."""
        _log.warning("the supervisor is gone; this worker ends", extra={"reason": reason})
        self._over.set()

    def _store_failed(self, error: StoreError) -> None:
        _log.critical("the ledger cannot be written; this worker stops serving", extra={"code": error.code})
        if self._plane is not None:
            self._plane.ledger_ok = False

    async def _rounds(self, plane: DataPlane) -> None:
        """Sweep sessions, keep streams alive, report numbers."""
        since_keep_alive = 0.0
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            plane.sweep()
            since_keep_alive += _TICK_SECONDS
            if since_keep_alive >= _KEEP_ALIVE_SECONDS:
                since_keep_alive = 0.0
                plane.table.keep_alive()
            self._peer.tell("metrics", plane.numbers())


def _load_ahead() -> None:
    """Import what building the data plane imports anyway."""
    import cedarpy  # noqa: F401
    import joserfc.jwk  # noqa: F401


async def _main() -> int:
    index = int(os.environ["DOORWARD_WORKER_INDEX"])
    bus = socket.socket(fileno=int(os.environ["DOORWARD_BUS_FD"]))
    counters_fd = int(os.environ["DOORWARD_COUNTERS_FD"])
    loop = asyncio.get_running_loop()
    # The supervisor decides when workers end; a Ctrl-C in the terminal reaches the whole process group.
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    loop.add_signal_handler(signal.SIGTERM, lambda: None)
    loop.add_signal_handler(signal.SIGHUP, lambda: None)
    peer = await Peer.over(bus)
    return await Worker(index, counters_fd, peer).run()


def main() -> int:
    """Entry of the process."""
    configure_logs()
    try:
        import uvloop
    except ImportError:  # uvloop is optional where it does not build
        return asyncio.run(_main())
    return int(uvloop.run(_main()))


if __name__ == "__main__":
    sys.exit(main())
