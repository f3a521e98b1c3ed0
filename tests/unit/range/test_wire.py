"""The attacker's HTTP: whole answers are read, anything less is no answer and never a refusal."""

from __future__ import annotations

import asyncio

import pytest

from doorward.range.wire import NoAnswerError, exchange, read_answer, request_bytes

pytestmark = pytest.mark.anyio

ERROR = b'{"jsonrpc":"2.0","error":{"code":-32020,"message":"no","data":{"event":"01ABC"}}}'


def response(body: bytes, kind: str = "application/json", status: int = 200) -> bytes:
    return (
        f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    )


def test_a_json_answer_gives_its_error_and_event() -> None:
    answer = read_answer(response(ERROR, status=400))
    assert (answer.status, answer.error["code"], answer.event, answer.is_result) == (
        400,
        -32020,
        "01ABC",
        False,
    )


def test_the_last_message_of_a_stream_is_the_response() -> None:
    body = b'data: {"jsonrpc":"2.0","method":"notifications/progress"}\n\ndata: {"jsonrpc":"2.0","id":1,"result":{}}\n\n'
    answer = read_answer(response(body, "text/event-stream"))
    assert answer.is_result
    assert len(answer.messages) == 2


def test_a_chunked_answer_is_put_together() -> None:
    head = b"HTTP/1.1 200 X\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert read_answer(head + b"2\r\n{}\r\n0\r\n\r\n").body == b"{}"


def test_a_tool_error_is_no_success() -> None:
    assert not read_answer(response(b'{"jsonrpc":"2.0","id":1,"result":{"isError":true}}')).is_result


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"HTTP/1.1 401 Unauthorized\r\nContent-Le",
        b"HTTP/1.1 401 X\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 401 X\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 401 X\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 401 X\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na",
    ],
)
def test_what_is_cut_off_or_no_http_is_no_answer(content: bytes) -> None:
    with pytest.raises(NoAnswerError):
        read_answer(content)


def test_a_request_is_written_as_it_is_wanted() -> None:
    raw = request_bytes("POST", "/x", [("Mcp-Name", "a"), ("Mcp-Name", "b")], b"{}")
    assert raw == b"POST /x HTTP/1.1\r\nMcp-Name: a\r\nMcp-Name: b\r\n\r\n{}"


async def test_a_port_where_nobody_listens_is_no_answer() -> None:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    with pytest.raises(NoAnswerError):
        await exchange("127.0.0.1", port, b"GET / HTTP/1.1\r\n\r\n")


async def test_silence_is_no_answer() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    try:
        with pytest.raises(NoAnswerError, match="no answer within"):
            await exchange("127.0.0.1", server.sockets[0].getsockname()[1], b"GET / HTTP/1.1\r\n\r\n", 0.05)
    finally:
        server.close()
