from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.adapters import bus
from doorward.adapters.bus_frames import FrameReader
from doorward.base import errors

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


@pytest.fixture
async def pair() -> AsyncIterator[tuple[bus.Peer, bus.Peer]]:
    left, right = socket.socketpair()
    ends = await bus.Peer.over(left), await bus.Peer.over(right)
    yield ends
    for end in ends:
        end.close()
    await until(lambda: all(end.is_lost for end in ends))


async def test_asks_are_answered_by_plain_and_waiting_functions(pair: tuple[bus.Peer, bus.Peer]) -> None:
    here, there = pair

    async def later(payload: Any) -> Any:
        await asyncio.sleep(0)
        return [payload, b"\x00\xff"]

    there.answer("now", lambda payload: {"got": payload})
    there.answer("later", later)
    assert await here.ask("now", {"n": 1}) == {"got": {"n": 1}}
    assert await here.ask("later", "x") == ["x", b"\x00\xff"]
    many = await asyncio.gather(*(here.ask("now", n) for n in range(500)))
    assert many == [{"got": n} for n in range(500)]


async def test_errors_of_ours_cross_whole_and_others_lose_their_text(pair: tuple[bus.Peer, bus.Peer]) -> None:
    here, there = pair

    def caller(_: Any) -> Any:
        raise errors.CallerError("x", "tell", status=418, rpc_code=-32001, detail="d", data={"k": [1]})

    def operator(_: Any) -> Any:
        raise errors.OperatorError("y", "tell", "detail")

    def bug(_: Any) -> Any:
        raise ValueError("a secret")

    there.answer("caller", caller)
    there.answer("operator", operator)
    there.answer("bug", bug)
    there.answer("odd", lambda _: object())
    with pytest.raises(errors.CallerError) as caught:
        await here.ask("caller", None)
    error = caught.value
    assert (error.code, error.tell, error.status, error.rpc_code, error.detail, error.data) == (
        "x",
        "tell",
        418,
        -32001,
        "d",
        {"k": [1]},
    )
    with pytest.raises(errors.OperatorError) as owned:
        await here.ask("operator", None)
    assert (owned.value.code, owned.value.detail) == ("y", "detail")
    for topic in ("bug", "odd"):
        with pytest.raises(errors.StoreError) as hidden:
            await here.ask(topic, None)
        assert hidden.value.code == "bus-fault"
        assert "secret" not in repr(vars(hidden.value))
    with pytest.raises(errors.StoreError) as nobody:
        await here.ask("nobody", None)
    assert nobody.value.code == "bus-topic"


async def test_an_ask_that_takes_too_long_fails_and_its_late_answer_is_dropped(
    pair: tuple[bus.Peer, bus.Peer],
) -> None:
    here, there = pair
    gate = asyncio.Event()

    async def slow(_: Any) -> str:
        await gate.wait()
        return "late"

    there.answer("slow", slow)
    there.answer("quick", lambda _: "quick")
    with pytest.raises(errors.StoreError) as caught:
        await here.ask("slow", None, timeout_seconds=0.01)
    assert caught.value.code == "bus-timeout"
    gate.set()
    assert await here.ask("quick", None) == "quick"


async def test_losing_the_other_end_fails_everything_at_once() -> None:
    left, right = socket.socketpair()
    lost: list[str] = []
    here = await bus.Peer.over(left, lost.append)
    there = await bus.Peer.over(right)
    there.answer("never", lambda _: asyncio.get_running_loop().create_future())
    there.accept("stream", lambda _payload, _channel: None)
    closed: list[str] = []
    here.open("stream", None, on_message=lambda _: None, on_close=closed.append)
    waiting = [asyncio.ensure_future(here.ask("never", n, timeout_seconds=60)) for n in range(3)]
    await asyncio.sleep(0)
    there.close()
    for one in waiting:
        with pytest.raises(errors.StoreError) as caught:
            async with asyncio.timeout(5):
                await one
        assert caught.value.code == "bus-lost"
    assert closed == ["bus-lost"]
    assert len(lost) == 1
    assert here.is_lost
    with pytest.raises(errors.StoreError):
        await here.ask("never", None)
    here.tell("anything", 1)
    here.open("stream", None, on_message=lambda _: None, on_close=closed.append).send(1)
    await until(lambda: len(closed) == 2)


async def test_channels_carry_messages_both_ways_and_a_close_comes_after_all_of_them(
    pair: tuple[bus.Peer, bus.Peer],
) -> None:
    here, there = pair
    heard: list[Any] = []
    replies: list[Any] = []
    closed: list[str] = []

    def accept(payload: Any, channel: bus.Channel) -> None:
        heard.append(payload)

        def echo(message: Any) -> None:
            heard.append(message)
            channel.send(["echo", message])
            if message == 2:
                channel.close("enough")

        channel.on_message = echo

    there.accept("chat", accept)
    channel = here.open("chat", "hello", on_message=replies.append, on_close=closed.append)
    for n in range(5):
        channel.send(n)
    await until(lambda: bool(closed))
    assert heard == ["hello", 0, 1, 2]
    assert replies == [["echo", 0], ["echo", 1], ["echo", 2]]
    assert closed == ["enough"]
    assert channel.is_closed
    channel.send("dropped")


async def test_a_channel_nobody_accepts_or_that_is_refused_is_closed_with_the_reason(
    pair: tuple[bus.Peer, bus.Peer],
) -> None:
    here, there = pair
    closed: list[str] = []

    def refuse(_: Any, __: bus.Channel) -> None:
        raise errors.UpstreamError("upstream-missing", "no")

    def crash(_: Any, __: bus.Channel) -> None:
        raise KeyError("x")

    there.accept("refused", refuse)
    there.accept("crashed", crash)
    for topic in ("nobody", "refused", "crashed"):
        here.open(topic, None, on_message=lambda _: None, on_close=closed.append)
    await until(lambda: len(closed) == 3)
    assert closed == ["bus-topic", "upstream-missing", "bus-fault"]


async def test_a_paused_receiver_holds_the_sender_and_loses_nothing(pair: tuple[bus.Peer, bus.Peer]) -> None:
    here, there = pair
    taken: list[int] = []
    ends: list[bus.Channel] = []
    closed: list[str] = []

    def accept(_: Any, channel: bus.Channel) -> None:
        channel.on_message = lambda message: taken.append(message[0])
        channel.on_close = closed.append
        channel.pause()
        ends.append(channel)

    there.accept("bulk", accept)
    there.answer("ping", lambda _: "pong")
    channel = here.open("bulk", None, on_message=lambda _: None, on_close=lambda _: None)
    writable: list[bool] = []
    channel.on_writable = lambda: writable.append(True)
    part = b"x" * 65_536
    for n in range(64):
        channel.send([n, part])
    assert channel.is_congested
    assert await here.ask("ping", None) == "pong"  # others are not held up
    assert taken == []
    ends[0].resume()
    await until(lambda: len(taken) == 64)
    assert taken == list(range(64))
    assert writable
    ends[0].pause()
    for n in range(64):
        channel.send([n, part])
    channel.close("done")
    assert await here.ask("ping", None) == "pong"
    ends[0].resume()
    await until(lambda: bool(closed))
    assert taken == list(range(64)) * 2
    assert closed == ["done"]


async def test_a_sender_that_ignores_congestion_is_cut_off(
    pair: tuple[bus.Peer, bus.Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = pair
    monkeypatch.setattr(bus, "BACKLOG_BYTES", 100_000)
    there.accept("bulk", lambda _, channel: channel.pause())
    closed: list[str] = []
    channel = here.open("bulk", None, on_message=lambda _: None, on_close=closed.append)
    for _ in range(40):
        channel.send(b"x" * 65_536)
    assert closed == ["bus-overflow"]


async def test_a_message_larger_than_the_window_passes(pair: tuple[bus.Peer, bus.Peer]) -> None:
    here, there = pair
    sizes: list[int] = []

    def accept(_: Any, channel: bus.Channel) -> None:
        channel.on_message = lambda message: sizes.append(len(message))

    there.accept("bulk", accept)
    channel = here.open("bulk", None, on_message=lambda _: None, on_close=lambda _: None)
    for _ in range(3):
        channel.send(b"x" * (3 * bus.WINDOW_BYTES))
    await until(lambda: len(sizes) == 3)
    assert sizes == [3 * bus.WINDOW_BYTES] * 3


async def test_a_listener_that_fails_closes_its_channel_only(pair: tuple[bus.Peer, bus.Peer]) -> None:
    here, there = pair
    closed: list[str] = []

    def accept(_: Any, channel: bus.Channel) -> None:
        channel.on_message = lambda message: message["missing"]

    there.accept("bad", accept)
    there.on_tell("bad", lambda _: 1 / 0)
    there.answer("ping", lambda _: "pong")
    channel = here.open("bad", None, on_message=lambda _: None, on_close=closed.append)
    channel.send({})
    here.tell("bad", None)
    assert await here.ask("ping", None) == "pong"
    assert closed == ["bus-fault"]


@pytest.mark.parametrize(
    "wire",
    [
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x01\xc1",
        b"\x00\x00\x00\x01\x00",
        b"\x00\x00\x00\x02\x91\x63",
        b"\x00\x00\x00\x00",
    ],
)
async def test_bytes_that_are_no_frame_end_the_connection(wire: bytes) -> None:
    left, right = socket.socketpair()
    lost: list[str] = []
    here = await bus.Peer.over(left, lost.append)
    right.sendall(wire)
    await until(lambda: bool(lost))
    assert here.is_lost
    right.close()


@given(st.lists(st.binary(max_size=40), max_size=8), st.data())
def test_frames_survive_any_cut_of_the_stream(payloads: list[bytes], data: st.DataObject) -> None:
    wire = b"".join(len(one).to_bytes(4, "big") + one for one in payloads)
    reader = FrameReader()
    found: list[bytes] = []
    while wire:
        size = data.draw(st.integers(1, len(wire)))
        found += reader.feed(wire[:size])
        wire = wire[size:]
    assert found == payloads


_CHILD = """
    import asyncio, os, socket, sys
    from doorward.adapters.bus import Peer

    async def main():
        over = asyncio.Event()
        peer = await Peer.over(socket.socket(fileno=int(sys.argv[1])), lambda _: over.set())
        peer.answer("pid", lambda _: os.getpid())
        async def count(n):
            return await peer.ask("double", n)
        peer.answer("count", count)
        await over.wait()

    asyncio.run(main())
"""


async def test_two_processes_ask_each_other_and_the_child_ends_when_the_parent_hangs_up() -> None:
    left, right = socket.socketpair()
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_CHILD), str(right.fileno())], pass_fds=(right.fileno(),)
    )
    right.close()
    try:
        peer = await bus.Peer.over(left)
        peer.answer("double", lambda n: 2 * n)
        assert await peer.ask("pid", None) == child.pid
        assert await peer.ask("count", 21) == 42
        peer.close()
        assert await asyncio.to_thread(child.wait, 5) == 0
    finally:
        child.kill()
        child.wait()
        left.close()


async def test_a_killed_process_is_noticed() -> None:
    left, right = socket.socketpair()
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_CHILD), str(right.fileno())], pass_fds=(right.fileno(),)
    )
    right.close()
    lost: list[str] = []
    peer = await bus.Peer.over(left, lost.append)
    assert await peer.ask("pid", None) == child.pid
    child.kill()
    await until(lambda: bool(lost))
    child.wait(5)
    peer.close()
