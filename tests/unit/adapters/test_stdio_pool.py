"""Stdio servers shared through the bus: who gets which process, whose answer is whose, restarts and eras (ST-04..ST-09, CF-08, CF-15)."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from doorward.adapters import bus
from doorward.adapters.cage import Cage
from doorward.adapters.stdio_link import StdioUpstream
from doorward.adapters.stdio_pool import StdioPool
from doorward.base import limits
from doorward.base.errors import UpstreamError
from doorward.catalogue.server import ServerSpec
from doorward.gateway.ports import Link
from doorward.protocol.envelope import notification, request, response
from doorward.protocol.message import Message

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the cage needs Linux"),
]
STAND_INS = Path(__file__).parents[2] / "stand_ins"
INIT = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}


async def until(condition: Callable[[], bool], what: str = "the condition never held") -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end, what
        await asyncio.sleep(0.005)


class Sink:
    """Collects what one post brings."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.is_done = False
        self.error: UpstreamError | None = None
        self.is_paused = False
        self.on_writable: Callable[[], None] | None = None

    def streaming(self, retry_ms: int | None = None, event_id: str = "") -> None: ...

    def message(self, message: Message, event_id: str = "", status: int = 200) -> None:
        self.messages.append(message)

    def done(self) -> None:
        self.is_done = True

    def failed(self, error: UpstreamError) -> None:
        self.error = error

    @property
    def is_over(self) -> bool:
        return self.is_done or self.error is not None


class Client:
    """A client session at one link."""

    def __init__(self, link: Link) -> None:
        self.link = link

    async def ask(self, method: str, params: dict[str, Any] | None = None, message_id: Any = 1) -> Sink:
        sink = Sink()
        self.link.post(request(message_id, method, params), sink)
        await until(lambda: sink.is_over, f"no end of {method}")
        return sink

    async def result(
        self, method: str, params: dict[str, Any] | None = None, message_id: Any = 1
    ) -> dict[str, Any]:
        sink = await self.ask(method, params, message_id)
        assert sink.error is None, sink.error
        answer = sink.messages[-1]
        assert answer.id == message_id and type(answer.id) is type(message_id)
        return answer.value["result"]  # type: ignore[no-any-return]

    async def shake(self) -> dict[str, Any]:
        result = await self.result("initialize", INIT, "init")
        self.link.post(notification("notifications/initialized"), Sink())
        return result


class Rig:
    """A pool, a bus and a worker's end."""

    def __init__(self, pool: StdioPool, worker: bus.Peer) -> None:
        self.pool = pool
        self.worker = worker

    def serve(self, *words: str, **more: Any) -> StdioUpstream:
        script = words[0] if words[0].endswith(".py") else "plain_stdio.py"
        rest = words[1:] if script == words[0] else words
        more.setdefault("files", ())
        spec = ServerSpec(name="s", command=(sys.executable, str(STAND_INS / script), *rest), **more)
        self.pool.set_servers({"s": spec})
        return StdioUpstream(self.worker, spec)

    async def link(
        self, upstream: StdioUpstream, principal: str = "alice", era: Any = "legacy", caps: Any = None
    ) -> Client:
        found: list[Link | UpstreamError] = []
        upstream.link(principal, era, "2025-11-25", caps or {}, found.append)
        await until(lambda: bool(found), "no link")
        if isinstance(found[0], UpstreamError):
            raise found[0]
        return Client(found[0])


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    left, right = socket.socketpair()
    supervisor, worker = await bus.Peer.over(left), await bus.Peer.over(right)
    pool = StdioPool(Cage(tmp_path / "data", tmp_path))
    supervisor.accept("stdio", pool.accept)
    yield Rig(pool, worker)
    begun = time.monotonic()
    await pool.close()
    assert time.monotonic() - begun < 8
    supervisor.close()
    worker.close()
    await asyncio.sleep(0)


async def test_sessions_of_one_principal_share_a_process_and_one_handshake(rig: Rig) -> None:
    upstream = rig.serve("legacy")
    first, second = await rig.link(upstream), await rig.link(upstream)
    assert await first.shake() == await second.shake()
    state = await first.result("state")
    assert (state["initializes"], state["confirmed"]) == (1, 1)
    assert (await second.result("state"))["pid"] == state["pid"]
    assert rig.pool.running() == {"s": 1}


async def test_principals_never_share_a_process_unless_told_so(rig: Rig) -> None:
    upstream = rig.serve("legacy")
    alice, bob = await rig.link(upstream, "alice"), await rig.link(upstream, "bob")
    other = await rig.link(upstream, "alice", caps={"roots": {}})
    for one in (alice, bob, other):
        await one.shake()
    assert rig.pool.running() == {"s": 3}
    upstream = rig.serve("legacy", per_principal=False)
    await (await rig.link(upstream, "alice")).shake()
    await (await rig.link(upstream, "bob")).shake()
    assert rig.pool.running() == {"s": 1}


async def test_t72_equal_ids_and_tokens_of_two_clients_never_cross(rig: Rig) -> None:
    upstream = rig.serve("legacy")
    clients = [await rig.link(upstream), await rig.link(upstream)]
    for one in clients:
        await one.shake()
    for round_number in range(200):
        sinks = []
        for index, one in enumerate(clients):
            for message_id in (1, "1", 2):
                sink = Sink()
                params = {"who": [round_number, index, message_id], "seconds": 0}
                one.link.post(request(message_id, "hold", params), sink)
                sinks.append((sink, params, message_id))
        await until(lambda: all(sink.is_over for sink, _, _ in sinks))  # noqa: B023
        for sink, params, message_id in sinks:
            assert sink.messages[0].value["result"]["saw"] == params
            assert sink.messages[0].id == message_id and type(sink.messages[0].id) is type(message_id)
    both = await asyncio.gather(
        *(
            one.ask("progress", {"_meta": {"progressToken": token}})
            for one, token in zip(clients, ("same", "same"), strict=True)
        )
    )
    for sink in both:
        told = [message.params for message in sink.messages if message.kind == "notification"]
        assert told == [{"progressToken": "same", "progress": 1}]


async def test_an_answer_nobody_asked_for_reaches_nobody(rig: Rig) -> None:
    client = await rig.link(rig.serve("legacy"))
    await client.shake()
    sink = await client.ask("forge")
    assert [message.id for message in sink.messages] == [1]


async def test_a_cancelled_call_is_cancelled_under_the_servers_id(rig: Rig) -> None:
    client = await rig.link(rig.serve("legacy"))
    await client.shake()
    sink = Sink()
    cancel = client.link.post(request("mine", "hold", {"seconds": 30}), sink)
    saw = (await client.result("state"))["saw"]
    cancel()
    state = await client.result("state", {}, 2)
    assert state["cancelled"] == [saw["id"] - 1]
    assert not sink.messages
    client.link.post(request("other", "hold", {"seconds": 30}), Sink())
    client.link.post(notification("notifications/cancelled", {"requestId": "other"}), Sink())
    assert (await client.result("state", {}, 3))["cancelled"] == [saw["id"] - 1, saw["id"] + 2]


async def test_calls_of_a_session_that_leaves_are_cancelled(rig: Rig) -> None:
    upstream = rig.serve("legacy")
    leaver, stayer = await rig.link(upstream), await rig.link(upstream)
    await leaver.shake()
    leaver.link.post(request(1, "hold", {"seconds": 30}), Sink())
    leaver.link.close()
    await until(lambda: True)
    state = await stayer.result("state")
    if not state["cancelled"]:
        state = await stayer.result("state")
    assert len(state["cancelled"]) == 1


async def test_what_a_server_asks_goes_to_the_client_at_work_and_its_answer_back(rig: Rig) -> None:
    upstream = rig.serve("legacy")
    worker, idler = await rig.link(upstream), await rig.link(upstream)
    await worker.shake()
    heard = Sink()
    idler.link.listen("", heard)
    sink = await worker.ask("ask-client")
    asked = sink.messages[0]
    assert asked.method == "sampling/createMessage"
    assert asked.id != 77
    assert not heard.messages
    idler.link.post(response(asked.id or "", {"stolen": True}), Sink())
    worker.link.post(response(asked.id or "", {"role": "assistant"}), Sink())
    answers = (await worker.result("state", {}, 2))["answers"]
    assert answers == [{"jsonrpc": "2.0", "id": 77, "result": {"role": "assistant"}}]


async def test_list_changes_reach_every_listener(rig: Rig) -> None:
    upstream = rig.serve("legacy")
    one, two = await rig.link(upstream), await rig.link(upstream)
    await one.shake()
    sinks = [Sink(), Sink()]
    for client, sink in zip((one, two), sinks, strict=True):
        client.link.listen("", sink)
    await one.result("change")
    await until(lambda: all(sink.messages for sink in sinks))
    assert {sink.messages[0].method for sink in sinks} == {"notifications/tools/list_changed"}


async def test_st04_a_server_that_exits_fails_its_calls_and_comes_back_after_a_pause(rig: Rig) -> None:
    client = await rig.link(rig.serve("legacy"))
    await client.shake()
    pid = (await client.result("state"))["pid"]
    hanging = Sink()
    client.link.post(request(5, "hold", {"seconds": 30}), hanging)
    assert (await client.ask("exit")).error is not None
    assert hanging.error is not None and hanging.error.code == "upstream-exited"
    early = await client.ask("state")
    assert early.error is not None and early.error.code == "upstream-backoff"
    assert "again in" in early.error.tell
    await asyncio.sleep(limits.CHILD_BACKOFF_FIRST_SECONDS)
    state = await client.result("state")
    assert (state["initializes"], state["confirmed"]) == (1, 1)  # the new process got the same handshake
    assert state["pid"] and pid


async def test_the_pause_doubles_while_a_server_never_answers(rig: Rig) -> None:
    upstream = rig.serve("legacy", "dead")
    begun = time.monotonic()
    failures = 0
    while failures < 3:
        try:
            client = await rig.link(upstream)
            sink = await client.ask("initialize", INIT)
            failures += sink.error is not None and sink.error.code == "upstream-exited"
        except UpstreamError as error:
            failures += error.code == "upstream-exited"
        await asyncio.sleep(0.02)
    assert time.monotonic() - begun >= 1.4  # 0.5 s and 1 s


@pytest.mark.parametrize("manners", [("legacy",), ("legacy", "leave")])
async def test_cf08_a_modern_client_learns_that_a_server_is_legacy(
    rig: Rig, manners: tuple[str, ...]
) -> None:
    upstream = rig.serve(*manners)
    for _ in range(2):
        with pytest.raises(UpstreamError) as caught:
            await rig.link(upstream, era="modern")
        assert caught.value.code == "upstream-era"
        assert "2025-11-25" in caught.value.tell
    await (await rig.link(upstream)).shake()


async def test_cf08_a_legacy_client_learns_that_a_server_is_modern(rig: Rig) -> None:
    upstream = rig.serve("modern")
    client = await rig.link(upstream)
    sink = await client.ask("initialize", INIT)
    assert sink.error is not None and sink.error.code == "upstream-era"
    assert "2026-07-28" in sink.error.tell
    modern = await rig.link(upstream, era="modern")
    assert (await modern.result("state"))["pid"]


async def test_the_official_sdk_serves_both_eras_in_the_cage(rig: Rig) -> None:
    upstream = rig.serve("stdio_server.py", env={"TOKEN": "sentinel"})
    legacy = await rig.link(upstream)
    assert (await legacy.shake())["serverInfo"]["name"] == "stand-in"
    call = {"name": "add", "arguments": {"a": 20, "b": 22}}
    assert (await legacy.result("tools/call", call))["structuredContent"] == {"result": 42}
    who = (await legacy.result("tools/call", {"name": "whoami", "arguments": {}}))["structuredContent"]
    assert who["token"] == "sentinel" and who["pid"] < 10
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"},
    }
    modern = await rig.link(upstream, era="modern")
    assert (await modern.result("tools/call", {**call, "_meta": meta}))["structuredContent"] == {"result": 42}
    counting = {"name": "count", "arguments": {"steps": 3}, "_meta": {**meta, "progressToken": "t"}}
    sink = await modern.ask("tools/call", counting)
    assert [m.params["progress"] for m in sink.messages if m.params] == [1, 2, 3]


async def test_changed_settings_end_the_old_process_after_its_calls(rig: Rig) -> None:
    client = await rig.link(rig.serve("legacy"))
    await client.shake()
    sink = Sink()
    client.link.post(request(1, "hold", {"seconds": 0.3}), sink)
    await client.result("state", {}, 2)
    upstream = rig.serve("legacy", env={"NEW": "1"})
    late = await client.ask("state", {}, 3)
    assert late.error is not None and late.error.code == "upstream-changed"
    await until(lambda: sink.is_over)
    assert sink.error is None
    await (await rig.link(upstream)).shake()
    rig.pool.set_servers({})
    with pytest.raises(UpstreamError):
        await rig.link(upstream, "carol")


async def test_too_many_processes_of_one_caller_are_refused(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CHILDREN_PER_PRINCIPAL", 1)
    upstream = rig.serve("legacy")
    held = await rig.link(upstream)
    with pytest.raises(UpstreamError) as caught:
        await rig.link(upstream, caps={"roots": {}})
    assert caught.value.code == "upstream-too-many"
    held.link.close()
    await rig.link(upstream, "bob")
    await rig.link(upstream, caps={"roots": {}})  # the idle process gave way


async def test_an_unused_process_ends(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CHILD_IDLE_SECONDS", 0.05)
    client = await rig.link(rig.serve("legacy"))
    await client.shake()
    client.link.close()
    await until(lambda: rig.pool.running() == {})


async def test_a_command_that_is_not_there_is_told_plainly(rig: Rig) -> None:
    spec = ServerSpec(name="s", command=("no-such-command-anywhere",))
    rig.pool.set_servers({"s": spec})
    with pytest.raises(UpstreamError) as caught:
        await rig.link(StdioUpstream(rig.worker, spec))
    assert caught.value.code == "command-not-found"
    assert os.fspath(STAND_INS) not in caught.value.tell
