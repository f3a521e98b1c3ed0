"""Who only connects, with no token at all, takes no descriptor that the gateway needs to serve and to keep its ledger."""

from __future__ import annotations

import contextlib
import os
import socket

from doorward.adapters.open_files import connections_within
from tests.stack.kit import running
from tests.stack.wire import until
from tests.stand_ins.http_server import HttpUpstream
from tests.talks.talk import PlayedServer, Talk


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def test_clients_never_get_the_last_descriptors() -> None:
    for limit in (256, 1_024, 4_096, 8_192, 20_000, 65_536, 1_048_576):
        connections, backlog = connections_within(limit)
        assert connections >= 16 and backlog >= 16
        assert connections + backlog <= limit - min(limit // 4, 1_000), limit


def test_many_connections_to_the_admin_plane_leave_the_supervisor_its_descriptors() -> None:
    """They once used up all descriptors of the supervisor: its ledger failed, and with it everything ended."""
    with running({"s": HttpUpstream()}) as stack, contextlib.ExitStack() as held:
        until(lambda: _listens(stack.admin_port), "the admin plane")
        process = stack.process
        assert process is not None
        folder = f"/proc/{process.pid}/fd"
        before = len(os.listdir(folder))
        for _ in range(400):
            try:
                held.enter_context(socket.create_connection(("127.0.0.1", stack.admin_port), 0.2))
            except OSError:
                break
        until(lambda: len(os.listdir(folder)) <= before + 70, "few descriptors in use")
        assert stack.admin("/api/v1/status").status == 200
        assert stack.modern("s", "tools/list").status == 200


def test_a_flood_without_a_token_does_not_fill_the_disk_with_records() -> None:
    talk = Talk({"s": PlayedServer()})
    for _ in range(6_000):
        assert talk.send("s", {}, token="x").status == 401
    written = len(talk.journal.entries)
    assert written < 3_000
    for _ in range(2):
        talk.gateway.broken(ValueError(), "127.0.0.1")
    assert len(talk.journal.entries) == written
    talk.clock.advance(5)
    talk.freshness.tick(1)
    assert talk.send("s", {}, token="x").status == 401
    told, last = talk.journal.entries[-2:]
    assert told["reason"] == f"{6_002 - written} refusals of unknown callers were counted only"
    assert last["control"] == "check-token"
    assert talk.modern("s", "tools/list").status == 200
    assert talk.journal.entries[-1]["record"] == "outcome", "known callers are always on record"
