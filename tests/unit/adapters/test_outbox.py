"""One flush a turn, the ledger first, and nothing at all when the ledger fails."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from doorward.adapters.outbox import Outbox
from doorward.base.errors import StoreError

pytestmark = pytest.mark.anyio


class Pipe(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self, log: list[object]) -> None:
        super().__init__()
        self.log = log
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.log.append(bytes(data))

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.log.append([bytes(data) for data in list_of_data])

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True


async def test_writes_of_a_turn_leave_together_after_the_ledger() -> None:
    log: list[object] = []
    pipe = Pipe(log)
    outbox = Outbox(asyncio.get_running_loop(), lambda: log.append("ledger"))
    outbox.write(pipe, b"a")
    outbox.write(pipe, b"b")
    outbox.after(pipe, lambda: log.append("after"))
    assert log == []
    await asyncio.sleep(0)
    assert log == ["ledger", [b"a", b"b"], "after"]


async def test_nothing_leaves_when_the_ledger_fails_and_its_connections_end() -> None:
    log: list[object] = []
    pipe = Pipe(log)
    told: list[StoreError] = []

    def fail() -> None:
        raise StoreError("ledger-full", "The ledger cannot be written.")

    outbox = Outbox(asyncio.get_running_loop(), fail, told.append)
    outbox.write(pipe, b"a")
    outbox.flush()
    assert log == []
    assert pipe.closed
    assert [error.code for error in told] == ["ledger-full"]


async def test_closed_transports_are_not_written_to() -> None:
    log: list[object] = []
    pipe = Pipe(log)
    pipe.closed = True
    outbox = Outbox(asyncio.get_running_loop(), lambda: None)
    outbox.write(pipe, b"a")
    outbox.flush()
    assert log == []


async def test_forgotten_bytes_were_never_sent() -> None:
    log: list[object] = []
    pipe = Pipe(log)
    outbox = Outbox(asyncio.get_running_loop(), lambda: None)
    outbox.write(pipe, b"a")
    assert outbox.holds(pipe)
    assert outbox.forget(pipe)
    assert not outbox.forget(pipe)
    outbox.flush()
    assert log == []
