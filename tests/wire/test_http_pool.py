"""The HTTP face towards servers, against servers that lie, stall, close and misframe."""

from __future__ import annotations

import asyncio

import pytest

from doorward.adapters.deadlines import Deadlines
from doorward.adapters.http_out import HttpPool, PoolCaps
from doorward.adapters.outbox import Outbox
from tests.ports import free_port

from .face_kit import Collector, ScriptedServer, pool_to, until

pytestmark = pytest.mark.anyio

HEAD = b"POST /mcp HTTP/1.1\r\nHost: s\r\nContent-Length: 2\r\n\r\n"
GET = b"GET /mcp HTTP/1.1\r\nHost: s\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


async def ask(pool: HttpPool, head: bytes = HEAD, body: bytes = b"{}", *, hold: bool = False) -> Collector:
    collector = Collector()
    pool.send(head, body, collector, hold=hold)
    return await collector.finished()


async def test_a_response_arrives_in_one_piece_and_its_connection_is_used_again() -> None:
    server = ScriptedServer([OK])
    async with pool_to(server) as pool:
        first = await ask(pool)
        second = await ask(pool)
    assert first.parts == second.parts == [b"hello"]
    assert first.head is second.head
    assert server.connections == 1
    assert server.requests == [HEAD + b"{}"] * 2


async def test_a_chunked_response_is_decoded() -> None:
    words = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"
    server = ScriptedServer([words, OK])
    async with pool_to(server) as pool:
        assert b"".join((await ask(pool)).parts) == b"hello"
        assert (await ask(pool)).parts == [b"hello"]
    assert server.connections == 1


async def test_a_response_that_ends_with_its_connection_is_whole() -> None:
    server = ScriptedServer([b"HTTP/1.1 200 OK\r\n\r\nhello"], close_after=True)
    async with pool_to(server) as pool:
        collector = await ask(pool)
        assert (await ask(pool)).error is None
    assert b"".join(collector.parts) == b"hello"
    assert collector.error is None
    assert server.connections == 2


async def test_interim_responses_are_skipped() -> None:
    server = ScriptedServer(
        [b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK]
    )
    async with pool_to(server) as pool:
        collector = await ask(pool)
    assert collector.head is not None
    assert collector.head.status == 200
    assert collector.parts == [b"hello"]


@pytest.mark.parametrize("status", [202, 204, 304])
async def test_a_response_without_a_body_is_complete_at_once(status: int) -> None:
    framing = b"Content-Length: 0\r\n" if status == 202 else b""
    server = ScriptedServer([b"HTTP/1.1 %d X\r\n%b\r\n" % (status, framing)])
    async with pool_to(server) as pool:
        assert (await ask(pool)).parts == []
        assert (await ask(pool)).error is None
    assert server.connections == 1


async def test_a_redirect_is_given_to_the_caller_and_not_followed() -> None:
    server = ScriptedServer(
        [b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n"]
    )
    async with pool_to(server) as pool:
        collector = await ask(pool)
    assert collector.head is not None
    assert collector.head.status == 302
    assert len(server.requests) == 1


BROKEN = {
    "two framings": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "length list": b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello",
    "no number": b"HTTP/1.1 200 OK\r\nContent-Length: 0x5\r\n\r\nhello",
    "folded": b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 5\r\n\r\nhello",
    "bare line feed": b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello\r\n\r\n",
    "not http": b"SSH-2.0-OpenSSH\r\n\r\n",
    "switching": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    "endless interim": b"HTTP/1.1 100 Continue\r\n\r\n" * 20,
    "endless head": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000,
    "many fields": b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 200 + b"\r\n",
    "chunk size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_response_that_cannot_be_trusted_fails(name: str) -> None:
    server = ScriptedServer([BROKEN[name], OK])
    async with pool_to(server) as pool:
        collector = await ask(pool)
        assert collector.error is not None
        assert collector.error.code == "upstream-broke"
        assert collector.ends == 1
        assert (await ask(pool)).parts == [b"hello"]
    assert server.connections == 2


@pytest.mark.parametrize("field", [b"Content-Encoding: gzip", b"Transfer-Encoding: gzip"])
async def test_a_coding_nobody_asked_for_fails(field: bytes) -> None:
    server = ScriptedServer([b"HTTP/1.1 200 OK\r\n" + field + b"\r\n\r\nxxxxx"])
    async with pool_to(server) as pool:
        error = (await ask(pool)).error
    assert error is not None
    assert error.code == "upstream-encoding"


@pytest.mark.parametrize(
    "words",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Le",
    ],
)
async def test_a_truncated_response_fails(words: bytes) -> None:
    server = ScriptedServer([words], close_after=True)
    async with pool_to(server) as pool:
        collector = await ask(pool)
    assert collector.error is not None
    assert collector.error.code == "upstream-broke"


async def test_bytes_after_a_response_cost_the_connection_and_never_become_the_next_response() -> None:
    poison = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    server = ScriptedServer([OK + poison, OK])
    async with pool_to(server) as pool:
        assert (await ask(pool)).parts == [b"hello"]
        assert (await ask(pool)).parts == [b"hello"]
    assert server.connections == 2


async def test_bytes_on_an_idle_connection_cost_it() -> None:
    server = ScriptedServer([OK])
    async with pool_to(server) as pool:
        await ask(pool)
        server.writers[0].write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        await until(lambda: not pool._wires)
        assert (await ask(pool)).parts == [b"hello"]
    assert server.connections == 2


async def test_a_response_over_the_cap_is_refused_whichever_way_it_is_framed() -> None:
    big = b"x" * 200
    words: list[bytes | None] = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n" + big,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nc8\r\n" + big,
        b"HTTP/1.1 200 OK\r\n\r\n" + big,
    ]
    async with pool_to(ScriptedServer(words), PoolCaps(reply_bytes=100)) as pool:
        for _ in words:
            error = (await ask(pool)).error
            assert error is not None
            assert error.code == "upstream-too-large"


async def test_an_event_stream_has_no_cap_of_its_whole_size() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    words = head + b"c8\r\n" + b"x" * 200 + b"\r\n0\r\n\r\n"
    async with pool_to(ScriptedServer([words]), PoolCaps(reply_bytes=100)) as pool:
        assert b"".join((await ask(pool)).parts) == b"x" * 200


async def test_a_silent_server_times_out() -> None:
    async with pool_to(ScriptedServer([b""]), PoolCaps(response_seconds=0.05)) as pool:
        error = (await ask(pool)).error
    assert error is not None
    assert error.code == "upstream-timeout"


async def test_a_held_stream_may_stay_silent_after_its_head() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    server = ScriptedServer([head])
    async with pool_to(server, PoolCaps(response_seconds=0.05)) as pool:
        collector = Collector()
        pool.send(GET, b"", collector, hold=True)
        await until(lambda: collector.head)
        began = asyncio.get_running_loop().time()
        await until(lambda: asyncio.get_running_loop().time() > began + 0.2)
        server.writers[0].write(b"1\r\na\r\n0\r\n\r\n")
        await collector.finished()
    assert (collector.parts, collector.error) == ([b"a"], None)


async def test_a_server_that_cannot_be_reached_fails() -> None:
    loop = asyncio.get_running_loop()
    deadlines = Deadlines(loop, 0.02)
    pool = HttpPool("127.0.0.1", free_port(), Outbox(loop, lambda: None), deadlines)
    error = (await ask(pool)).error
    assert error is not None
    assert error.code == "upstream-unreachable"
    pool.close()
    deadlines.close()


async def test_a_posted_message_that_may_have_been_acted_on_is_not_sent_twice() -> None:
    server = ScriptedServer([OK, None, OK])
    async with pool_to(server) as pool:
        await ask(pool)
        error = (await ask(pool)).error
    assert error is not None
    assert error.code == "upstream-broke"
    assert len(server.requests) == 2


async def test_a_get_is_sent_again_when_its_kept_connection_closes_before_any_answer() -> None:
    server = ScriptedServer([OK, None, OK])
    async with pool_to(server) as pool:
        await ask(pool)
        assert (await ask(pool, GET, b"")).parts == [b"hello"]
    assert len(server.requests) == 3


async def test_a_get_on_a_fresh_connection_is_not_sent_again() -> None:
    server = ScriptedServer([None])
    async with pool_to(server) as pool:
        assert (await ask(pool, GET, b"")).error is not None
    assert len(server.requests) == 1


async def test_a_cancelled_exchange_closes_its_connection_and_says_nothing() -> None:
    server = ScriptedServer([b"", OK])
    async with pool_to(server) as pool:
        collector = Collector()
        handle = pool.send(HEAD, b"{}", collector)
        await until(lambda: server.requests)
        handle.cancel()
        handle.cancel()
        assert (await ask(pool)).parts == [b"hello"]
    assert collector.ends == 0
    assert server.connections == 2


async def test_an_exchange_cancelled_while_dialling_leaves_the_connection_to_the_next() -> None:
    server = ScriptedServer([OK])
    async with pool_to(server, PoolCaps(in_flight=1)) as pool:
        collector = Collector()
        pool.send(HEAD, b"{}", collector).cancel()
        assert (await ask(pool)).parts == [b"hello"]
    assert collector.ends == 0
    assert server.connections == 1
    assert len(server.requests) == 1


async def test_requests_beyond_the_places_wait_and_beyond_the_queue_fail() -> None:
    server = ScriptedServer([OK])
    async with pool_to(server, PoolCaps(in_flight=1, waiting=1)) as pool:
        collectors = [Collector() for _ in range(3)]
        for collector in collectors:
            pool.send(HEAD, b"{}", collector)
        for collector in collectors:
            await collector.finished()
    assert [collector.error is None for collector in collectors] == [True, True, False]
    assert server.connections == 1


async def test_an_exchange_that_waits_for_somebody_makes_room_and_keeps_its_deadline() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    server = ScriptedServer([head, OK])
    async with pool_to(server, PoolCaps(in_flight=1, holds=1, response_seconds=0.5)) as pool:
        asking, following = Collector(), Collector()
        exchange = pool.send(HEAD, b"{}", asking)
        pool.send(HEAD, b"{}", following)
        await until(lambda: asking.head)
        assert following.ends == 0, "there is one place"
        exchange.linger()
        exchange.linger()  # asks once more: nothing is counted twice
        assert (await following.finished()).error is None
        assert (await asking.finished()).error is not None
        assert asking.error is not None and asking.error.code == "upstream-timeout"
        assert (await ask(pool)).error is None
        assert not pool.is_busy


async def test_a_wait_for_a_place_has_an_end() -> None:
    server = ScriptedServer([b""])
    async with pool_to(server, PoolCaps(in_flight=1, response_seconds=0.05)) as pool:
        collectors = [Collector() for _ in range(2)]
        for collector in collectors:
            pool.send(HEAD, b"{}", collector)
        for collector in collectors:
            await collector.finished()
            assert collector.error is not None
            assert collector.error.code == "upstream-timeout"


async def test_a_paused_exchange_reads_nothing_until_it_is_resumed() -> None:
    size = 8_000_000
    words = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size
    async with pool_to(ScriptedServer([words])) as pool:
        collector = Collector()
        handle = pool.send(HEAD, b"{}", collector)
        handle.pause()
        await until(lambda: pool._wires)
        began = asyncio.get_running_loop().time()
        await until(lambda: asyncio.get_running_loop().time() > began + 0.05)
        assert collector.parts == []
        handle.resume()
        await collector.finished()
    assert sum(map(len, collector.parts)) == size


async def test_idle_connections_are_given_up() -> None:
    server = ScriptedServer([OK])
    async with pool_to(server, PoolCaps(idle_seconds=0.03)) as pool:
        await ask(pool)
        await until(lambda: not pool._wires)
        assert (await ask(pool)).parts == [b"hello"]
    assert server.connections == 2


async def test_a_closing_pool_fails_what_is_under_way() -> None:
    async with pool_to(ScriptedServer([b""])) as pool:
        collector = Collector()
        pool.send(HEAD, b"{}", collector)
        await until(lambda: pool._wires)
        pool.close()
        await collector.finished()
    assert collector.error is not None
    assert collector.ends == 1
