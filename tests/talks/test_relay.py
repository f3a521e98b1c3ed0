"""Sessions of other workers: handed over, answered, and told cleanly when their owner dies."""

from __future__ import annotations

from typing import Any

from doorward.gateway.relay import RelayedResponder
from tests.talks.talk import Ear, PlayedServer, Talk


class Wire:
    """Both ends of one bus channel, in memory."""

    def __init__(self) -> None:
        self.on_message: Any = None
        self.on_close: Any = None
        self.other: Wire = self
        self.is_closed = False

    def send(self, payload: Any) -> None:
        if not self.other.is_closed:
            self.other.on_message(payload)

    def close(self, reason: str = "") -> None:
        if not self.is_closed:
            self.is_closed = self.other.is_closed = True
            self.other.on_close(reason)


class Pair:
    """Two workers of one gateway: the second relays to the first."""

    def __init__(self, server: PlayedServer) -> None:
        self.wires: list[Wire] = []
        self.owner = Talk({"time": server}, worker=0)
        self.other = Talk({"time": server}, worker=1, relay=self.relay)
        self.alive = True

    def relay(self, owner: int, payload: dict[str, Any], client: Any) -> bool:
        near, far = Wire(), Wire()
        near.other, far.other = far, near
        near.on_message, near.on_close = client.hear, client.closed
        self.wires.append(far)
        client.attach(near)
        if self.alive:
            self.owner.gateway.accept_relay(payload, lambda address: RelayedResponder(far, address))
        else:
            far.close("worker gone")
        return True

    def ask(self, session: str, method: str, params: dict[str, Any] | None = None, **extra: Any) -> Ear:
        return self.other.legacy("time", session, method, params or {}, **extra)


def test_a_request_that_lands_on_another_worker_is_served_by_the_owner() -> None:
    server = PlayedServer()
    pair = Pair(server)
    session = pair.owner.open("time")
    ear = pair.ask(session, "tools/call", {"name": "echo", "arguments": {"x": 1}}, id=3)
    assert ear.status == 200 and ear.json["id"] == 3
    assert pair.owner.journal.entries[-1]["outcome"] == "ok"
    assert not any(entry.get("record") == "decision" for entry in pair.other.journal.entries)


def test_a_stream_crosses_workers_and_its_end_too() -> None:
    pair = Pair(PlayedServer())
    session = pair.owner.open("time")
    ear = pair.other.send("time", None, verb="GET", Mcp_Session_Id=session)
    assert ear.streaming and not ear.ended
    assert pair.other.send("time", None, verb="DELETE", Mcp_Session_Id=session).status == 200
    assert ear.ended


def test_another_principal_is_not_let_in_by_the_way_round() -> None:
    server = PlayedServer()
    pair = Pair(server)
    session = pair.owner.open("time")
    before = len(server.seen)
    assert pair.ask(session, "tools/list", user="bob").status == 404
    assert len(server.seen) == before


def test_the_clients_of_a_dead_owner_are_told_that_the_session_is_over() -> None:
    pair = Pair(PlayedServer())
    session = pair.owner.open("time")
    ear = pair.other.send("time", None, verb="GET", Mcp_Session_Id=session)
    pair.wires[-1].close("worker gone")
    assert ear.aborted
    pair.alive = False
    assert pair.ask(session, "tools/list").status == 404


def test_the_token_does_not_cross_the_bus() -> None:
    pair = Pair(PlayedServer())
    session = pair.owner.open("time")
    seen: list[Any] = []
    keep = pair.owner.gateway.accept_relay
    pair.owner.gateway.accept_relay = lambda payload, make: (seen.append(repr(payload)), keep(payload, make))[
        1
    ]  # type: ignore[method-assign]
    pair.ask(session, "tools/list")
    assert seen and "Bearer" not in seen[0] and "authorization" not in seen[0]


def test_a_stale_owner_refuses_what_is_handed_over() -> None:
    pair = Pair(PlayedServer())
    session = pair.owner.open("time")
    pair.owner.clock.advance(2.5)
    assert pair.ask(session, "tools/list").status == 503


def test_headers_that_lie_are_found_out_on_the_way_round_too() -> None:
    server = PlayedServer()
    pair = Pair(server)
    session = pair.owner.open("time")
    before = len(server.seen)
    ear = pair.ask(
        session, "tools/call", {"name": "delete", "arguments": {}}, Mcp_Name="echo", Mcp_Method="tools/call"
    )
    assert ear.status == 400 and ear.json["error"]["code"] == -32020
    assert len(server.seen) == before
