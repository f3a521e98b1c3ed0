"""The HTTP face towards clients, on real sockets."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from pathlib import Path

import pytest

from doorward.adapters.http_listener import FaceCaps
from doorward.base.errors import StoreError
from doorward.controls.control import Head
from doorward.gateway.ports import Reply, Responder

from .face_kit import NotingFront, face, read_reply, until

pytestmark = pytest.mark.anyio

HOST = b"Host: 127.0.0.1\r\n"
BYE = b"Connection: close\r\n"


def post(body: bytes, extra: bytes = b"") -> bytes:
    return b"POST /x HTTP/1.1\r\n" + HOST + extra + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


async def test_a_request_is_answered_with_framing_date_and_its_body() -> None:
    async with face() as bench:
        answer = await bench.say(post(b"hello", BYE))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\nDate: ")
    assert answer.endswith(b"Content-Length: 5\r\nConnection: close\r\n\r\nhello")


async def test_any_cut_of_a_request_gives_the_same_answer() -> None:
    wire = post(b"hello", BYE)
    async with face() as bench:
        reader, writer = await bench.connect()
        for at in range(len(wire)):
            writer.write(wire[at : at + 1])
            await writer.drain()
        _, body = await read_reply(reader)
        writer.close()
    assert body == b"hello"


async def test_a_chunked_request_arrives_whole() -> None:
    wire = b"POST /x HTTP/1.1\r\n" + HOST + BYE + b"Transfer-Encoding: chunked\r\n\r\n"
    async with face() as bench:
        answer = await bench.say(wire, b"3\r\nhel\r\n", b"2\r\nlo\r\n0\r\nX-T: ignored\r\n\r\n")
        assert bench.front.bodies == [b"hello"]
        assert "x-t" not in bench.front.heads[0].fields
    assert answer.endswith(b"hello")


async def test_pipelined_requests_are_served_in_order() -> None:
    async with face() as bench:
        answer = await bench.say(post(b"one") + post(b"two") + post(b"three", BYE))
    assert [part.split(b"\r\n\r\n")[1][:5] for part in answer.split(b"HTTP/1.1 ")[1:]] == [
        b"one",
        b"two",
        b"three",
    ]


async def test_a_pipelined_request_waits_for_an_answer_that_comes_later() -> None:
    front = NotingFront()
    front.serve = lambda head, body, responder: None
    async with face(front) as bench:
        reader, writer = await bench.connect()
        writer.write(post(b"one") + post(b"two"))
        await until(lambda: front.bodies)
        await asyncio.sleep(0)
        assert front.bodies == [b"one"]
        front.responders[0].answer(Reply(200, b"", b"1"))
        await until(lambda: len(front.bodies) == 2)
        front.responders[1].answer(Reply(200, b"", b"2"))
        assert (await read_reply(reader))[1] == b"1"
        assert (await read_reply(reader))[1] == b"2"
        writer.close()


async def test_equal_heads_are_parsed_once_and_share_their_verdicts() -> None:
    async with face() as bench:
        await bench.say(post(b"a") + post(b"b") + post(b"c", BYE))
        assert bench.front.heads[0] is bench.front.heads[1]
        assert bench.front.heads[0] is not bench.front.heads[2]


async def test_a_head_without_a_body_is_served_with_an_empty_one() -> None:
    async with face() as bench:
        await bench.say(b"GET /x?a=b HTTP/1.1\r\n" + HOST + BYE + b"\r\n")
        assert bench.front.bodies == [b""]
        assert (bench.front.heads[0].path, bench.front.heads[0].query) == ("/x", "a=b")


async def test_the_answer_to_head_has_no_body() -> None:
    front = NotingFront()
    front.serve = lambda head, body, responder: responder.answer(Reply(200, b"", b"12345"))
    async with face(front) as bench:
        answer = await bench.say(b"HEAD /x HTTP/1.1\r\n" + HOST + BYE + b"\r\n")
    assert b"Content-Length: 5\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


async def test_a_refused_head_is_answered_before_its_body_and_the_body_is_never_a_request() -> None:
    front = NotingFront()
    front.judge = lambda head: (
        Reply(401, b"WWW-Authenticate: Bearer\r\n", b"") if head.verb == "POST" else None
    )
    smuggled = b"GET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n"
    async with face(front) as bench:
        reader, writer = await bench.connect()
        writer.write(b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(smuggled))
        assert (await read_reply(reader))[0].startswith(b"HTTP/1.1 401 ")
        writer.write(smuggled + b"GET /after HTTP/1.1\r\n" + HOST + b"\r\n")
        assert (await read_reply(reader))[0].startswith(b"HTTP/1.1 200 ")
        assert [head.path for head in front.heads] == ["/x", "/after"]
        writer.close()


async def test_a_refused_chunked_request_ends_the_connection() -> None:
    front = NotingFront()
    front.judge = lambda head: Reply(401)
    wire = b"POST /x HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    async with face(front) as bench:
        answer = await bench.say(wire + post(b"next"))
        assert len(front.heads) == 1
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"Connection: close" in answer


async def test_a_body_over_the_limit_is_413_by_its_announced_length() -> None:
    front = NotingFront()
    front.limit = 10
    async with face(front) as bench:
        assert (await bench.say(post(b"x" * 11))).startswith(b"HTTP/1.1 413 ")
        chunked = b"POST /x HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nb\r\n"
        assert (await bench.say(chunked)).startswith(b"HTTP/1.1 413 ")
        assert front.bodies == []


async def test_a_client_that_expects_it_is_told_to_continue() -> None:
    async with face() as bench:
        reader, writer = await bench.connect()
        writer.write(b"POST /x HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"hello")
        assert (await read_reply(reader))[1] == b"hello"
        writer.close()


async def test_a_refused_client_is_not_told_to_continue() -> None:
    front = NotingFront()
    front.judge = lambda head: Reply(401)
    async with face(front) as bench:
        wire = b"POST /x HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        answer = await bench.say(wire)
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"Connection: close" in answer


async def test_http_1_0_gets_one_answer_and_the_end_of_the_connection() -> None:
    async with face() as bench:
        answer = await bench.say(
            b"POST /x HTTP/1.0\r\n" + HOST + b"Connection: keep-alive\r\nContent-Length: 1\r\n\r\na"
        )
    assert b"Connection: close" in answer
    assert answer.endswith(b"a")


async def test_a_stream_is_chunked_and_for_http_1_0_ends_with_the_connection() -> None:
    def serve(head: Head, body: bytes, responder: Responder) -> None:
        responder.start(200, b"Content-Type: text/event-stream\r\n")
        responder.write(b"data: 1\n\n")
        responder.write(b"data: 22\n\n")
        responder.end()
        responder.write(b"late")
        responder.answer(Reply(500))

    front = NotingFront()
    front.serve = serve
    async with face(front) as bench:
        answer = await bench.say(b"GET /x HTTP/1.1\r\n" + HOST + BYE + b"\r\n")
        assert answer.partition(b"\r\n\r\n")[2] == b"9\r\ndata: 1\n\n\r\na\r\ndata: 22\n\n\r\n0\r\n\r\n"
        answer = await bench.say(b"GET /x HTTP/1.0\r\n" + HOST + b"\r\n")
        assert answer.partition(b"\r\n\r\n")[2] == b"data: 1\n\ndata: 22\n\n"


async def test_a_slow_head_is_408() -> None:
    async with face(caps=FaceCaps(head_seconds=0.05)) as bench:
        answer = await bench.say(b"POST /x HTTP/1.1\r\nHo")
        assert answer.startswith(b"HTTP/1.1 408 ")


async def test_bytes_that_drip_in_do_not_extend_the_head_deadline() -> None:
    async with face(caps=FaceCaps(head_seconds=0.1)) as bench:
        reader, writer = await bench.connect()
        writer.write(b"POST /x HTTP/1.1\r\nX-A: ")

        async def drip() -> None:
            while not reader.at_eof():
                writer.write(b"a")
                await asyncio.sleep(0.01)

        dripping = asyncio.ensure_future(drip())
        assert (await read_reply(reader))[0].startswith(b"HTTP/1.1 408 ")
        dripping.cancel()
        writer.close()


async def test_a_slow_body_is_408() -> None:
    async with face(caps=FaceCaps(body_seconds=0.05)) as bench:
        answer = await bench.say(b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 9\r\n\r\nabc")
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert bench.front.bodies == []


async def test_an_idle_connection_is_closed_without_a_word() -> None:
    async with face(caps=FaceCaps(idle_seconds=0.05)) as bench:
        answer = await bench.say(post(b"a"))
        assert answer.count(b"HTTP/1.1") == 1
        assert bench.front.errors == []


async def test_an_exchange_under_way_has_no_deadline_of_the_face() -> None:
    front = NotingFront()
    front.serve = lambda head, body, responder: None
    caps = FaceCaps(head_seconds=0.03, body_seconds=0.03, idle_seconds=0.03)
    async with face(front, caps) as bench:
        reader, writer = await bench.connect()
        writer.write(post(b"a"))
        await until(lambda: front.responders)
        began = asyncio.get_running_loop().time()
        await until(lambda: asyncio.get_running_loop().time() > began + 0.15)
        front.responders[0].answer(Reply(200, b"", b"late"))
        assert (await read_reply(reader))[1] == b"late"
        writer.close()


async def test_a_client_that_goes_away_is_reported_once() -> None:
    gone: list[int] = []

    def serve(head: Head, body: bytes, responder: Responder) -> None:
        responder.on_gone = lambda: gone.append(1)

    front = NotingFront()
    front.serve = serve
    async with face(front) as bench:
        _, writer = await bench.connect()
        writer.write(post(b"a"))
        await until(lambda: front.responders)
        writer.close()
        await until(lambda: gone)
        front.responders[0].answer(Reply(200))
        await until(lambda: not bench.listener.faces)
    assert gone == [1]


async def test_a_body_that_is_cut_off_is_an_error_on_record() -> None:
    async with face() as bench:
        reader, writer = await bench.connect()
        writer.write(b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 9\r\n\r\nabc")
        writer.write_eof()
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
        assert len(bench.front.errors) == 1
        writer.close()


async def test_a_client_that_does_not_read_pauses_its_stream_and_is_cut_off_when_it_never_does() -> None:
    gone: list[int] = []

    def serve(head: Head, body: bytes, responder: Responder) -> None:
        responder.on_gone = lambda: gone.append(1)
        responder.start(200, b"")

    front = NotingFront()
    front.serve = serve
    async with face(front, FaceCaps(stall_seconds=0.1)) as bench:
        _, writer = await bench.connect()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(post(b"a"))
        await until(lambda: front.responders)
        responder = front.responders[0]
        while not responder.is_paused:
            responder.write(b"x" * 65_536)
            await asyncio.sleep(0)
        await until(lambda: gone)
        writer.transport.abort()


async def test_a_paused_stream_goes_on_when_the_client_reads_again() -> None:
    writable: list[int] = []

    def serve(head: Head, body: bytes, responder: Responder) -> None:
        responder.on_writable = lambda: writable.append(1)
        responder.start(200, b"")

    front = NotingFront()
    front.serve = serve
    async with face(front) as bench:
        reader, writer = await bench.connect()
        writer.write(post(b"a", BYE))
        await until(lambda: front.responders)
        responder = front.responders[0]
        sent = 0
        while not responder.is_paused:
            responder.write(b"x" * 65_536)
            sent += 65_536
            await asyncio.sleep(0)
        reading = asyncio.ensure_future(reader.read())
        await until(lambda: writable)
        assert getattr(responder, "is_paused") is False  # noqa: B009
        responder.end()
        assert (await reading).count(b"x") == sent
        writer.close()


async def test_no_byte_leaves_when_the_ledger_cannot_be_written() -> None:
    async with face() as bench:
        bench.flushes.error = StoreError("ledger-full", "The ledger cannot be written.")
        reader, writer = await bench.connect()
        writer.write(post(b"a"))
        with pytest.raises(ConnectionResetError):
            assert await reader.read() == b""
            raise ConnectionResetError
        writer.close()


async def test_a_front_that_fails_refuses() -> None:
    def serve(head: Head, body: bytes, responder: Responder) -> None:
        raise RuntimeError("bug")

    front = NotingFront()
    front.serve = serve
    async with face(front) as bench:
        answer = await bench.say(post(b"a") + post(b"b"))
        assert answer.startswith(b"HTTP/1.1 500 ")
        assert answer.count(b"HTTP/1.1") == 1
        assert len(front.bodies) == 1


async def test_connections_over_the_cap_of_an_address_are_turned_away() -> None:
    async with face(caps=FaceCaps(connections_per_address=1)) as bench:
        reader, writer = await bench.connect()
        writer.write(post(b"a"))
        await read_reply(reader)
        second, other = await bench.connect()
        with pytest.raises(ConnectionResetError):
            assert await second.read() == b""
            raise ConnectionResetError
        assert bench.listener.turned_away == 1
        other.close()
        writer.close()


async def test_draining_finishes_what_is_under_way_and_closes_the_rest() -> None:
    front = NotingFront()
    front.serve = lambda head, body, responder: None
    async with face(front) as bench:
        idle, idle_writer = await bench.connect()
        reader, writer = await bench.connect()
        writer.write(post(b"a"))
        await until(lambda: front.responders and len(bench.listener.faces) == 2)
        draining = asyncio.ensure_future(bench.listener.drain(5.0))
        assert await idle.read() == b""
        front.responders[0].answer(Reply(200, b"", b"last"))
        head, body = await read_reply(reader)
        assert b"Connection: close" in head
        assert body == b"last"
        writer.close()
        idle_writer.close()
        await draining


SMUGGLING = {
    "two lengths": b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "equal lengths": b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "length list": b"Content-Length: 5, 5\r\n\r\nhello",
    "length with plus": b"Content-Length: +5\r\n\r\nhello",
    "length with underscore": b"Content-Length: 0_5\r\n\r\nhello",
    "length in hex": b"Content-Length: 0x5\r\n\r\nhello",
    "negative length": b"Content-Length: -5\r\n\r\nhello",
    "empty length": b"Content-Length: \r\n\r\nhello",
    "huge length": b"Content-Length: 99999999999999999999\r\n\r\nhello",
    "arabic length": "Content-Length: \u0665\r\n\r\nhello".encode(),
    "length and coding": b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "coding and length": b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "two codings": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "coding list": b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "unknown coding": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "space before colon": b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "underscore": b"Transfer_Encoding: chunked\r\n\r\n0\r\n\r\n",
    "tab in a value": b"X: X\tTransfer-Encoding: chunked\r\n\r\n",
    "vertical tab": b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    "high byte": b"Transfer-Encoding:\xa0chunked\r\n\r\n0\r\n\r\n",
    "folded line": b"X-A: b\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bare line feed": b"X-A: b\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bare carriage return": b"X-A: b\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "nul": b"X-A: b\0c\r\n\r\n",
    "no colon": b"X-A\r\n\r\n",
    "empty name": b": a\r\n\r\n",
    "second host": b"Host: evil.example\r\n\r\n",
    "second authorization": b"Authorization: a\r\nAuthorization: b\r\n\r\n",
    "second version": b"MCP-Protocol-Version: 1\r\nMcp-Protocol-Version: 2\r\n\r\n",
    "chunk extension": b"Transfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\n\r\n",
    "chunk line feed": b"Transfer-Encoding: chunked\r\n\r\n5\nhello\n0\n\n",
    "chunk underscore": b"Transfer-Encoding: chunked\r\n\r\n0_5\r\nhello\r\n0\r\n\r\n",
}
SMUGGLED = b"GET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n"


@pytest.mark.parametrize("name", SMUGGLING)
async def test_ambiguous_framing_gets_one_refusal_and_the_end_of_the_connection(name: str) -> None:
    async with face() as bench:
        answer = await bench.say(b"POST /x HTTP/1.1\r\n" + HOST + SMUGGLING[name] + SMUGGLED)
        assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 "))
        assert answer.count(b"HTTP/1.1 ") == 1
        assert bench.front.bodies == []
        assert len(bench.front.errors) == 1


LINES = {
    "no version": (b"GET /x\r\n", 400),
    "bare line feeds": (b"GET /x HTTP/1.1\nHost: a\n\n", 400),
    "absolute form": (b"GET http://evil.example/x HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "asterisk form": (b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "authority form": (b"CONNECT a:80 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "fragment": (b"GET /x#y HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "backslash": (b"GET \\x HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "utf-8 target": ("GET /\u00e9 HTTP/1.1\r\n".encode() + HOST + b"\r\n", 400),
    "two spaces": (b"GET  /x HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "tab": (b"GET\t/x HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "no host": (b"GET /x HTTP/1.1\r\n\r\n", 400),
    "host with user": (b"GET /x HTTP/1.1\r\nHost: localhost@evil.example\r\n\r\n", 400),
    "http 2": (b"GET /x HTTP/2.5\r\n" + HOST + b"\r\n", 505),
    "lower-case method": (b"get /x HTTP/1.1\r\n" + HOST + b"\r\n", 501),
    "unknown method": (b"PROPFIND /x HTTP/1.1\r\n" + HOST + b"\r\n", 501),
    "long target": (b"GET /" + b"a" * 5_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414),
    "very long target": (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414),
    "long field": (b"GET /x HTTP/1.1\r\nX-Big: " + b"a" * 70_000, 431),
    "many fields": (b"GET /x HTTP/1.1\r\n" + HOST + b"X-N: 1\r\n" * 101 + b"\r\n", 431),
    "expectation": (b"GET /x HTTP/1.1\r\n" + HOST + b"Expect: the-worst\r\n\r\n", 417),
}


@pytest.mark.parametrize("name", LINES)
async def test_a_malformed_head_gets_its_status_and_the_end_of_the_connection(name: str) -> None:
    wire, status = LINES[name]
    async with face() as bench:
        answer = await bench.say(wire)
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert answer.count(b"HTTP/1.1 ") == 1
        assert bench.front.heads == []


async def test_an_offer_to_upgrade_is_ignored() -> None:
    async with face() as bench:
        answer = await bench.say(post(b"a", b"Connection: close, Upgrade\r\nUpgrade: websocket\r\n"))
    assert answer.startswith(b"HTTP/1.1 200 ")


ROWS = Path(os.environ.get("DOORWARD_SHARED_ROWS", ""))


@pytest.mark.skipif("DOORWARD_SHARED_ROWS" not in os.environ, reason="needs a folder of attack rows")
async def test_published_smuggling_rows_never_reach_a_second_request() -> None:
    rows = [json.loads(line) for line in (ROWS / "wire" / "http-smuggling.jsonl").read_text().splitlines()]
    front = NotingFront()
    front.judge = lambda head: None if head.path == "/x" else Reply(404)
    async with face(front, FaceCaps(body_seconds=0.1, idle_seconds=0.1, head_seconds=0.1)) as bench:
        wrong = []
        for row in rows:
            wire = base64.b64decode(row["raw_b64"])
            for name, value in (
                (b"{PATH}", b"/x"),
                (b"{HOST}", b"127.0.0.1"),
                (b"{TOKEN}", b"t"),
                (b"{SID}", b"s"),
            ):
                wire = wire.replace(name, value)
            answer = await bench.say(wire)
            if answer.count(b"HTTP/1.1 ") != 1 or any("smuggled" in head.path for head in front.heads):
                wrong.append(row["id"])
            front.heads.clear()
    assert wrong == []
