"""What all client connections of one port share: the front, the caps, the counts and the memo of heads.

A head that was seen before, byte for byte but for the length of its body, is not parsed again: equal bytes have an equal
parse, and clients repeat their heads. It is judged anew for each length. The memo holds bearer tokens, so it is bounded and lives in this process only.
"""

from __future__ import annotations

import asyncio
import email.utils
import http
import re
import time
from typing import TYPE_CHECKING

import msgspec

from doorward.adapters.deadlines import Deadlines
from doorward.adapters.outbox import Outbox
from doorward.base import limits
from doorward.controls.control import Certificate, Head
from doorward.gateway.ports import Front
from doorward.protocol.http_head import LENGTH_DIGITS, parse_request_head

if TYPE_CHECKING:
    from doorward.adapters.http_in import HttpFace
    from doorward.adapters.tls_face import TlsDoor

MEMO_HEADS = 4_096
SEEN_HEADS = 8_192
FAMILY_HEADS = 64  # lengths of one head that are kept
_LENGTH = b"\r\nContent-Length: "
_LENGTH_IN_LOWER_CASE = b"\r\ncontent-length: "
_TRACE_CONTEXT = re.compile(  # W3C Trace Context §3.2, between two other lines' ends
    rb"\r\ntraceparent: [0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(?=\r\n)", re.IGNORECASE
)
_PROOF = re.compile(rb"\r\ndpop:", re.IGNORECASE)  # RFC 9449 §4.1
MEMO_BYTES = 8_388_608
_REASONS = {status.value: status.phrase for status in http.HTTPStatus}


class FaceCaps(msgspec.Struct, frozen=True):
    """What one process grants its clients: seconds and counts."""

    head_seconds: float = limits.HEAD_SECONDS
    body_seconds: float = limits.BODY_SECONDS
    idle_seconds: float = limits.IDLE_SECONDS
    stall_seconds: float = 60.0  # a client that reads nothing for so long while bytes wait is cut off
    connections: int = 20_000
    connections_per_address: int = 10_000


class HttpListener:
    """What all connections of one listening port share."""

    def __init__(
        self, front: Front, outbox: Outbox, deadlines: Deadlines, caps: FaceCaps | None = None
    ) -> None:
        self.front = front
        self.outbox = outbox
        self.deadlines = deadlines
        self.caps = caps or FaceCaps()
        self.draining = False
        self.faces: set[HttpFace] = set()
        self.turned_away = 0  # connections refused because of a cap
        self._per_address: dict[str, int] = {}
        self.door: TlsDoor | None = None  # None: plain HTTP
        self.every_answer = b""  # encoded header lines of every answer
        # head without its length, and the certificate of its connection -> its length as written -> head
        self._memo: dict[bytes | tuple[Certificate, bytes], dict[bytes, Head]] = {}
        self._memo_bytes = 0
        self._memo_heads = 0
        self._seen_once: set[int] = (
            set()
        )  # hashes of heads that came once; two with one hash cost memory only
        self._openings: dict[int, bytes] = {}
        self._openings_until = 0.0
        self._server: asyncio.Server | None = None

    def attach(self, server: asyncio.Server) -> None:
        """Take over the listening sockets."""
        self._server = server

    @property
    def port(self) -> int:
        """The port that is listened on."""
        if self._server is None:
            return 0
        return int(self._server.sockets[0].getsockname()[1])

    def close(self) -> None:
        """Take no more connections, and hang up where nothing is under way."""
        self.draining = True
        if self._server is not None:
            self._server.close()
        if self.door is not None:
            self.door.close()
        for face in list(self.faces):
            face.close_if_idle()

    async def drain(self, seconds: float) -> None:
        """Take no more connections, finish what is under way, and break what is left after ``seconds``."""
        self.close()
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while self.faces and loop.time() < until:
            await asyncio.sleep(0.02)
        for face in list(self.faces):
            face.abort()

    def head_of(self, block: bytes, certificate: Certificate | None = None) -> tuple[bytes, Head]:
        """These bytes and their parsed head, from the memo where it can. Raises CallerError."""
        # Clients repeat their heads but for the length of the body: it is left out of what is looked up.
        start = block.rfind(_LENGTH)
        if start < 0:
            start = block.rfind(_LENGTH_IN_LOWER_CASE)
        if start < 0:
            key, digits = block, b""
        else:
            start += len(_LENGTH)
            stop = block.find(b"\r\n", start)
            key, digits = block[:start] + block[stop:], block[start:stop]
        # SECURITY: bytes alone are the key only where no certificate is; with one the key is a pair, which no bytes that
        # somebody sends can equal (tests/wire/test_tls_face.py).
        family = self._memo.get(key if certificate is None else (certificate, key))
        if family is None:
            return block, self._parsed(block, key, digits, certificate)
        return block, family.get(digits) or self._of_length(family, block, digits, certificate)

    def _parsed(self, block: bytes, key: bytes, digits: bytes, certificate: Certificate | None) -> Head:
        if _PROOF.search(block) is not None:
            return self._parse(block, certificate)  # no two requests have the same: not worth a place
        # A trace context differs in every request and decides nothing here. A well-formed line of it is left out of
        # what is looked up and parsed, so that a client which is traced is not parsed anew each time.
        key, found = _TRACE_CONTEXT.subn(b"", key, 1)
        place = key if certificate is None else (certificate, key)
        if found:
            block = _TRACE_CONTEXT.sub(b"", block, 1)
            family = self._memo.get(place)
            if family is not None:
                return family.get(digits) or self._of_length(family, block, digits, certificate)
        head = self._parse(block, certificate)
        # A head is kept when it comes for the second time: those that never do are many, and each takes a few KB.
        mark = hash(place)
        if mark not in self._seen_once:
            if len(self._seen_once) >= SEEN_HEADS:
                self._seen_once.clear()
            self._seen_once.add(mark)
            return head
        if self._memo_bytes + len(key) > MEMO_BYTES:
            self.forget_heads()
        self._memo_bytes += len(key)
        self._keep({}, head, digits, place)
        return head

    def _of_length(
        self, family: dict[bytes, Head], block: bytes, digits: bytes, certificate: Certificate | None
    ) -> Head:
        """A head that differs from those of ``family`` in the length of its body only: the rest of it was parsed."""
        if not digits.isdigit() or len(digits) > LENGTH_DIGITS:
            return self._parse(block, certificate)  # which says what is wrong with it
        head = next(iter(family.values())).with_length(digits.decode())
        if len(family) >= FAMILY_HEADS:
            self._memo_heads -= len(family)
            family.clear()
        self._keep(family, head, digits)
        return head

    def _keep(
        self,
        family: dict[bytes, Head],
        head: Head,
        digits: bytes,
        place: bytes | tuple[Certificate, bytes] | None = None,
    ) -> None:
        if self._memo_heads >= MEMO_HEADS:
            self.forget_heads()
            family.clear()  # it is nobody's any more, unless it is about to be put there
        family[digits] = head
        self._memo_heads += 1
        if place is not None:
            self._memo[place] = family

    @staticmethod
    def _parse(block: bytes, certificate: Certificate | None) -> Head:
        head = parse_request_head(block, Head)
        head.certificate = certificate
        return head

    def forget_heads(self) -> None:
        """Empty the memo, for example when tokens were revoked."""
        self._memo.clear()
        self._memo_bytes = self._memo_heads = 0

    def answer_always(self, fields: bytes) -> None:
        """Let every answer carry these encoded header lines."""
        if fields != self.every_answer:
            self.every_answer = fields
            self._openings.clear()

    def distrust_certificates(self) -> None:
        """Other authorities are in force: what connections have proven so far counts no more."""
        if self.door is not None:
            self.door.trust += 1
        for face in list(self.faces):
            face.forget_certificate()
        self.forget_heads()

    def opening(self, status: int) -> bytes:
        """The status line and the Date field."""
        now = self.deadlines.now
        if now >= self._openings_until:
            self._openings.clear()
            self._openings_until = now + 1.0
        line = self._openings.get(status)
        if line is None:
            date = email.utils.formatdate(time.time(), usegmt=True)
            line = f"HTTP/1.1 {status} {_REASONS.get(status, '')}\r\nDate: {date}\r\n".encode("ascii")
            line += self.every_answer
            self._openings[status] = line
        return line

    def admit(self, face: HttpFace, address: str) -> bool:
        """Count a new connection in, unless a cap is reached or the process is about to stop."""
        here = self._per_address.get(address, 0)
        full = len(self.faces) >= self.caps.connections or here >= self.caps.connections_per_address
        if full or self.draining:
            self.turned_away += 1
            return False
        self._per_address[address] = here + 1
        self.faces.add(face)
        return True

    def dismiss(self, face: HttpFace, address: str) -> None:
        """Count a connection out."""
        if face not in self.faces:
            return
        self.faces.discard(face)
        left = self._per_address.get(address, 0) - 1
        if left > 0:
            self._per_address[address] = left
        else:
            self._per_address.pop(address, None)
