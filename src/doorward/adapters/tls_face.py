"""TLS on client connections: the handshake, and then the transport that an HTTP face writes to and reads from.

The loop's own TLS is not used: it shows nobody a connection before its handshake is over, so that half handshakes could be
neither counted nor told apart, and a server's context could not be replaced while it listens. Here one object stands between
the plain connection and the face; it costs no task and no timer.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import ssl
from collections.abc import Callable
from typing import Any, cast

from doorward.adapters.deadlines import NEVER, Deadlines
from doorward.controls.control import Certificate

HANDSHAKE_SECONDS = 5.0  # from the first byte's arrival to the last; a drip does not prolong it
HANDSHAKE_BYTES = 65_536  # a client's hello and its certificates are far smaller
PENDING_COUNT = 512  # handshakes of one worker under way at once
PENDING_PER_ADDRESS = 64
_READ_BYTES = 65_536
_HANDSHAKE_RECORD = 0x16
_PLAIN_HTTP = re.compile(rb"(?:GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS|TRACE|CONNECT|PRI) ")
# SECURITY: no redirect: a client that was led to https by an answer in the clear would send its token in the clear first.
_SPEAKS_TLS = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 33\r\nConnection: close\r\n\r\n"
    b"This port speaks TLS: use https.\n"
)

MakeFace = Callable[["Certificate | None"], asyncio.Protocol]


class TlsDoor:
    """What all TLS connections of one listening port share. Replace ``context`` and new connections use the new one."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context
        self.trust = 0  # grows whenever the authorities of clients change
        self.failures: dict[str, int] = {}  # handshakes that did not come to an end, by reason
        self._pending: dict[TlsConnection, str] = {}
        self._per_address: dict[str, int] = {}

    @property
    def pending(self) -> int:
        """Handshakes under way."""
        return len(self._pending)

    def admit(self, connection: TlsConnection, address: str) -> bool:
        """Count a handshake in, unless too many are under way."""
        here = self._per_address.get(address, 0)
        if len(self._pending) >= PENDING_COUNT or here >= PENDING_PER_ADDRESS:
            self.count("too-many")
            return False
        self._pending[connection] = address
        self._per_address[address] = here + 1
        return True

    def leave(self, connection: TlsConnection) -> None:
        """The handshake is over, one way or the other."""
        address = self._pending.pop(connection, None)
        if address is None:
            return
        left = self._per_address[address] - 1
        if left:
            self._per_address[address] = left
        else:
            del self._per_address[address]

    def count(self, reason: str) -> None:
        """Count a handshake that failed."""
        self.failures[reason] = self.failures.get(reason, 0) + 1

    def close(self) -> None:
        """Break off what has not shaken hands yet."""
        for connection in list(self._pending):
            connection.abort()


class TlsConnection(asyncio.Transport):
    """One connection: the protocol of the plain transport, and the transport of the face behind it."""

    __slots__ = (
        "_closing", "_deadlines", "_door", "_ended", "_face", "_incoming", "_make", "_outgoing", "_paused",
        "_raw", "_taken", "_tls", "_trust", "deadline",
    )  # fmt: skip

    def __init__(self, door: TlsDoor, deadlines: Deadlines, make: MakeFace) -> None:
        super().__init__()
        self._door = door
        self._deadlines = deadlines
        self._make = make
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._trust = door.trust
        self._tls = door.context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._raw = cast(asyncio.Transport, None)  # set by connection_made
        self._face: asyncio.Protocol | None = None  # None until the handshake is over
        self._taken = 0  # bytes of the handshake so far
        self._paused = False
        self._closing = False
        self._ended = False  # close_notify is sent: what comes now is only counted
        self.deadline = NEVER

    # -- what the loop calls, for the plain connection ----------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The client has connected, and not said anything yet."""
        self._raw = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        if not self._door.admit(self, peer[0] if isinstance(peer, tuple) else ""):
            self.abort()
            return
        self._deadlines.watch(self)  # first, for the clock of deadlines stands still while nothing is watched
        self.deadline = self._deadlines.now + HANDSHAKE_SECONDS

    def data_received(self, data: bytes) -> None:
        """Bytes of records."""
        if self._ended:
            if self._face is not None:
                self._face.data_received(data)  # a face that has closed counts what it drops
            return
        if self._face is None:
            if self._closing:
                return
            if not self._taken and data[0] != _HANDSHAKE_RECORD:
                self._refuse_plain(data)
                return
            self._taken += len(data)
            self._incoming.write(data)
            self._shake()
            if self._face is None:
                return
        else:
            self._incoming.write(data)
        self._read()

    def eof_received(self) -> bool:
        """The client has ended its side without saying so in TLS; HTTP's own framing tells whether that is a cut."""
        if self._face is None:
            self._give_up("cut-off")
            return False
        self._end_of_input()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The plain connection is gone."""
        self._closing = True
        face = self._face
        if face is not None:
            self._face = None
            face.connection_lost(exc)
        else:
            if self in self._door._pending:
                self._door.count("cut-off")
            self._forget_handshake()

    def pause_writing(self) -> None:
        """The client reads too slowly."""
        if self._face is not None:
            self._face.pause_writing()

    def resume_writing(self) -> None:
        """The client has caught up."""
        if self._face is not None:
            self._face.resume_writing()

    def on_deadline(self) -> None:
        """The handshake took too long."""
        self._give_up("too-slow")

    # -- the handshake ------------------------------------------------------------------------------------------

    def _refuse_plain(self, data: bytes) -> None:
        """Something else than TLS: a client that speaks HTTP is told so, anything else is cut off."""
        self._forget_handshake()
        self._door.count("plain")
        self._closing = True
        if _PLAIN_HTTP.match(data):
            self._raw.write(_SPEAKS_TLS)
            self._raw.close()
        else:
            self._raw.abort()

    def _shake(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            if self._taken > HANDSHAKE_BYTES:
                self._give_up("too-large")
            return
        except ssl.SSLCertVerificationError:
            self._flush()
            self._give_up("client-certificate", gently=True)
            return
        except (ssl.SSLError, OSError) as error:
            self._flush()  # the alert that says why
            missing = getattr(error, "reason", "") == "PEER_DID_NOT_RETURN_A_CERTIFICATE"
            self._give_up("client-certificate" if missing else "tls", gently=True)
            return
        self._forget_handshake()
        self._flush()
        face = self._make(self._peer())
        self._face = face
        face.connection_made(self)

    def _peer(self) -> Certificate | None:
        """The client's certificate, which the handshake has verified."""
        der = self._tls.getpeercert(binary_form=True)
        # SECURITY: a handshake that began under authorities which were taken back meanwhile has proven nothing.
        if not der or self._trust != self._door.trust:
            return None
        digest = base64.urlsafe_b64encode(hashlib.sha256(der).digest()).rstrip(b"=").decode()
        ends: Any = (self._tls.getpeercert() or {}).get("notAfter", "")
        return Certificate(thumbprint=digest, expires_at=float(ssl.cert_time_to_seconds(ends)))

    def _give_up(self, reason: str, *, gently: bool = False) -> None:
        """End without a face. ``gently``: what is written (an alert) goes out first."""
        if self in self._door._pending:
            self._door.count(reason)
        self._forget_handshake()
        self._closing = True
        if gently:
            self._raw.close()
        else:
            self._raw.abort()

    def _forget_handshake(self) -> None:
        self._door.leave(self)
        self._deadlines.forget(self)
        self.deadline = NEVER

    # -- after it -----------------------------------------------------------------------------------------------

    def _read(self) -> None:
        """Hand everything that can be read to the face."""
        while not self._paused and not self._ended and self._face is not None and not self._raw.is_closing():
            try:
                data = self._tls.read(_READ_BYTES)
            except ssl.SSLWantReadError:
                break
            except (ssl.SSLError, OSError):
                self._door.count("record")
                self.abort()
                return
            if not data:
                self._end_of_input()
                break
            self._face.data_received(data)
        if not self._ended:
            self._flush()  # answers to what TLS itself asked, such as new keys

    def _end_of_input(self) -> None:
        face = self._face
        if face is not None and not face.eof_received():
            self.close()

    def _read_on(self) -> None:
        if not self._paused and not self._closing:
            self._read()

    def _flush(self) -> None:
        if self._outgoing.pending and not self._raw.is_closing():
            self._raw.write(self._outgoing.read())

    def _say_goodbye(self) -> None:
        """Send close_notify."""
        self._ended = True
        try:
            self._tls.unwrap()
        except (ssl.SSLError, OSError, ValueError):
            pass  # it wants the other side's goodbye, for which nobody waits
        self._flush()

    # -- what the face calls: asyncio.Transport -----------------------------------------------------------------

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As of the plain connection, and what asyncio's own TLS transports tell of themselves."""
        if name == "ssl_object":
            return self._tls
        return self._tls.context if name == "sslcontext" else self._raw.get_extra_info(name, default)

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Encrypt and send."""
        if self._ended or self._closing:
            return
        view = memoryview(data)
        try:
            while view:
                view = view[self._tls.write(view) :]
        except (ssl.SSLError, OSError):
            self._door.count("record")
            self.abort()
            return
        self._flush()

    def writelines(self, list_of_data: Any) -> None:
        """Encrypt and send several parts as one."""
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        """TLS has an end for each direction of its own."""
        return True

    def write_eof(self) -> None:
        """Say that nothing more comes; the client may still send what nobody reads."""
        if not self._ended and not self._closing:
            self._say_goodbye()
            self._raw.write_eof()

    def is_closing(self) -> bool:
        """True once the connection is being closed."""
        return self._closing or self._raw.is_closing()

    def is_reading(self) -> bool:
        """False while the face wants no more."""
        return not self._paused

    def close(self) -> None:
        """Send what is written, and goodbye, and close."""
        if self._closing:
            return
        if not self._ended:
            self._say_goodbye()
        self._closing = True
        self._raw.close()

    def abort(self) -> None:
        """Break the connection at once."""
        self._closing = True
        self._raw.abort()

    def pause_reading(self) -> None:
        """Take no more from the client."""
        if not self._paused:
            self._paused = True
            self._raw.pause_reading()

    def resume_reading(self) -> None:
        """Go on, with what has been decrypted in part already."""
        if self._paused and not self._closing:
            self._paused = False
            self._raw.resume_reading()
            asyncio.get_running_loop().call_soon(self._read_on)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """As of the plain connection."""
        self._raw.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """Bytes that wait in the plain connection."""
        return self._raw.get_write_buffer_size()
