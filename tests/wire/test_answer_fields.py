"""Header lines that every answer to a head carries, whichever way the answer takes."""

from __future__ import annotations

import pytest

from doorward.controls.control import Head
from doorward.gateway.ports import Reply, Responder

from .face_kit import NotingFront, face

pytestmark = pytest.mark.anyio


def post(body: bytes, extra: bytes = b"") -> bytes:
    return b"POST /x HTTP/1.1\r\nHost: h\r\n%bContent-Length: %d\r\n\r\n%b" % (extra, len(body), body)


@pytest.mark.parametrize(("status", "size"), [(200, 0), (200, 5), (200, 40_000), (401, 5), (202, 0)])
async def test_every_answer_to_a_head_carries_its_fields(status: int, size: int) -> None:
    def serve(head: Head, body: bytes, responder: Responder) -> None:
        head.answer_fields = b"DPoP-Nonce: n\r\n"
        if status == 202:  # stands for a streamed answer
            responder.start(200, b"X: y\r\n")
            responder.end()
        else:
            responder.answer(Reply(status, b"X: y\r\n", bytes(size)))

    front = NotingFront()
    front.serve = serve
    async with face(front) as bench:
        answers = (await bench.say(post(b"kept"), post(b"last", b"Connection: close\r\n"))).split(
            b"HTTP/1.1 "
        )[1:]
    assert len(answers) == 2
    for answer in answers:
        assert answer.split(b"\r\n\r\n")[0].count(b"\r\nDPoP-Nonce: n\r\nX: y") == 1
