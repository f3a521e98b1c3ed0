"""The one HTTP client for URLs that somebody else chose: an issuer's metadata, keys, a client's document (SSRF).

A URL is judged, its name is resolved once, every address of the answer is judged, and the connection goes to a judged
address: there is no second resolution that could answer otherwise. Redirects are off unless asked for, and each hop is
judged anew. One request a connection, no cookies, no proxies of the environment, bounded size and time.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urljoin

import msgspec

from doorward.base import limits
from doorward.base.addresses import Address, NetworkRules, Target, as_address, refused
from doorward.base.errors import CallerError, OperatorError, UpstreamError
from doorward.protocol.chunks import ChunkDecoder
from doorward.protocol.http_head import END_OF_HEAD, ResponseHead, parse_response_head, plain_fields

ANSWER_BYTES = 1_048_576
TOTAL_SECONDS = 10.0
IN_FLIGHT = 32  # requests at once; more wait, within their own time
RESOLVERS = 4  # threads of our own: a name server that hangs must not hold up what else runs in threads
ADDRESSES = 8  # of one answer that are tried
INTERIM_HEADS = 8
_READ_BYTES = 65_536
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_OURS = frozenset(
    {"host", "content-length", "connection", "transfer-encoding", "accept-encoding", "user-agent"}
)

Resolving = Callable[[str, int], Awaitable[Sequence[str]]]  # name and port -> addresses as text
Fields = Sequence[tuple[str, str]]


class Fetched(msgspec.Struct, frozen=True):
    """One whole answer; ``fields`` has lower-case names, ``url`` is where it came from in the end."""

    status: int
    fields: dict[str, str]
    body: bytes
    url: str

    @property
    def media_type(self) -> str:
        """The content type without parameters, lower case."""
        return self.fields.get("content-type", "").partition(";")[0].strip().lower()


class GuardedHttp:
    """Asks URLs of others. ``resolve`` stands in for the system's resolver in tests.

    Raises everywhere: UpstreamError ``fetch-refused`` (nothing was sent to where it leads), ``fetch-failed``,
    ``fetch-untrusted`` (its certificate), ``fetch-too-large`` or ``fetch-timeout``; OperatorError ``ca-unreadable``.
    """

    def __init__(self, rules: NetworkRules, *, resolve: Resolving | None = None) -> None:
        self.rules = rules
        self._resolve = resolve or self._ask_system
        self._contexts: dict[str | None, tuple[object, ssl.SSLContext]] = {}
        self._places = asyncio.Semaphore(IN_FLIGHT)
        self._threads = ThreadPoolExecutor(RESOLVERS, thread_name_prefix="resolve")

    def close(self) -> None:
        """Let go of the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def get(
        self,
        url: str,
        *,
        fields: Fields = (("accept", "application/json"),),
        ca_file: str | None = None,
        redirects: int = 0,
        limit_bytes: int = ANSWER_BYTES,
        seconds: float = TOTAL_SECONDS,
    ) -> Fetched:
        """GET ``url``. A redirect beyond ``redirects`` comes back as it is; ``fields`` stay with their own origin."""
        try:
            async with asyncio.timeout(seconds), self._places:
                target = self.rules.admit(url)
                while True:
                    got = await self._ask(target, "GET", fields, b"", ca_file, limit_bytes)
                    if got.status not in _REDIRECTS or not redirects or "location" not in got.fields:
                        return got
                    redirects -= 1
                    following = self.rules.admit(_joined(target.url, got.fields["location"]))
                    if following.origin != target.origin:
                        fields = [(name, value) for name, value in fields if name.lower() == "accept"]
                    target = following
        except TimeoutError:
            raise _late() from None

    async def post(
        self,
        url: str,
        fields: Fields,
        body: bytes,
        *,
        ca_file: str | None = None,
        limit_bytes: int = ANSWER_BYTES,
        seconds: float = TOTAL_SECONDS,
    ) -> Fetched:
        """POST ``body`` to ``url``. A redirect comes back as it is: what was posted is for this one address."""
        try:
            async with asyncio.timeout(seconds), self._places:
                return await self._ask(self.rules.admit(url), "POST", fields, body, ca_file, limit_bytes)
        except TimeoutError:
            raise _late() from None

    # -- one request --------------------------------------------------------------------------------------------

    async def _ask(
        self, target: Target, verb: str, fields: Fields, body: bytes, ca_file: str | None, limit_bytes: int
    ) -> Fetched:
        head = _request_head(target, verb, fields, body)
        tls = await self._tls(ca_file) if target.scheme == "https" else None
        reader, writer = await self._connect(target, await self._addresses(target), tls)
        try:
            writer.write(head + body)
            answer = await _read(reader, limit_bytes)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise _failed(
                "The connection broke before the answer was whole.", type(error).__name__
            ) from error
        finally:
            writer.transport.abort()  # nothing more is wanted of it, a closing handshake neither
        return Fetched(answer[0].status, answer[0].fields, answer[1], target.url)

    async def _tls(self, ca_file: str | None) -> ssl.SSLContext:
        """The context for a file of authorities as it is now; those of the system are read once."""

        def make() -> tuple[object, ssl.SSLContext]:
            stamp = _stamp(ca_file)
            known = self._contexts.get(ca_file)
            return known if known is not None and known[0] == stamp else (stamp, _context(ca_file))

        found = await asyncio.get_running_loop().run_in_executor(self._threads, make)
        self._contexts[ca_file] = found
        return found[1]

    async def _addresses(self, target: Target) -> list[Address]:
        """The judged addresses of a target; one bad address spoils the answer: a mixed one is an attempt."""
        literal = target.literal
        if literal is not None:
            self.rules.admit_address(target, literal)
            return [literal]
        try:
            texts = await self._resolve(target.host, target.port)
        except OSError as error:
            raise _failed("The URL's host cannot be found.", target.host) from error
        found: list[Address] = []
        for text in texts:
            address = as_address(text)
            if address is None:  # a scoped address is link-local
                raise refused("The URL's host has an address of no kind that is reached.", target.host)
            self.rules.admit_address(target, address)
            if address not in found:
                found.append(address)
        if not found:
            raise _failed("The URL's host has no address.", target.host)
        return found[:ADDRESSES]

    async def _ask_system(self, host: str, port: int) -> Sequence[str]:
        def resolve() -> list[str]:
            answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
            return [str(answer[4][0]) for answer in answers]

        return await asyncio.get_running_loop().run_in_executor(self._threads, resolve)

    async def _connect(
        self, target: Target, addresses: Sequence[Address], tls: ssl.SSLContext | None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to the first judged address that answers; the name serves for TLS only."""
        last: OSError | None = None
        for address in addresses:
            try:
                return await asyncio.open_connection(
                    str(address),
                    target.port,
                    ssl=tls,
                    server_hostname=target.host if tls is not None else None,
                    limit=limits.HEAD_BYTES,
                )
            except ssl.SSLCertVerificationError as error:
                raise UpstreamError(
                    "fetch-untrusted",
                    "The certificate of the URL's host does not hold: it is for another name, out of date or of an authority that is not trusted.",
                    f"{target.authority}: {error.verify_message}",
                ) from error
            except OSError as error:
                last = error
        what = "TLS" if isinstance(last, ssl.SSLError) else "no connection"
        raise _failed("The URL's host cannot be reached.", f"{target.authority}: {what}") from last


def _request_head(target: Target, verb: str, fields: Fields, body: bytes) -> bytes:
    if any(name.lower() in _OURS for name, _ in fields):
        raise ValueError("a field of the connection is set by the client itself")
    pairs = [("Host", target.authority), ("User-Agent", "Doorward"), ("Accept-Encoding", "identity")]
    pairs += [("Connection", "close"), *fields]
    if verb == "POST":
        pairs.append(("Content-Length", str(len(body))))
    return f"{verb} {target.path} HTTP/1.1\r\n".encode("ascii") + plain_fields(pairs) + b"\r\n"


async def _read(reader: asyncio.StreamReader, limit_bytes: int) -> tuple[ResponseHead, bytes]:
    """Read one response strictly and whole."""
    try:
        for _ in range(INTERIM_HEADS + 1):
            head = parse_response_head(await reader.readuntil(END_OF_HEAD))
            if head.status >= 200:
                return head, await _read_body(reader, head, limit_bytes)
            if head.status == 101:
                break
    except UpstreamError as error:
        if error.code.startswith("fetch-"):
            raise
        raise _failed("The answer is not plain HTTP.", error.detail or error.tell) from error
    except CallerError as error:
        if error.status == 413:
            raise _too_large() from error
        raise _failed("The answer is not plain HTTP.", error.tell) from error
    raise _failed("The answer is not plain HTTP.", "interim responses only")


async def _read_body(reader: asyncio.StreamReader, head: ResponseHead, limit_bytes: int) -> bytes:
    if head.content_length is not None:
        if head.content_length > limit_bytes:
            raise _too_large()
        return await reader.readexactly(head.content_length)
    decoder = ChunkDecoder(limit_bytes) if head.chunked else None
    parts: list[bytes] = []
    taken = 0
    while piece := await reader.read(_READ_BYTES):
        if decoder is not None:
            found, done, _ = decoder.feed(piece)
            parts += found
            if done:
                return b"".join(parts)
            continue
        taken += len(piece)
        if taken > limit_bytes:
            raise _too_large()
        parts.append(piece)
    if decoder is not None:
        raise _failed("The connection broke before the answer was whole.", "chunked")
    return b"".join(parts)


def _context(ca_file: str | None) -> ssl.SSLContext:
    """Verification is never off; with ``ca_file`` only its authorities count (in a thread: it reads files)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # and not the default one: that obeys SSLKEYLOGFILE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        if ca_file is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(ca_file)
    except (OSError, ssl.SSLError) as error:
        raise OperatorError("ca-unreadable", f"The authorities in {ca_file} cannot be read.") from error
    return context


def _stamp(ca_file: str | None) -> object:
    if ca_file is None:
        return None
    try:
        found = os.stat(ca_file)
    except OSError as error:
        raise OperatorError("ca-unreadable", f"The authorities in {ca_file} cannot be read.") from error
    return found.st_mtime_ns, found.st_size, found.st_ino


def _joined(base: str, location: str) -> str:
    try:
        return urljoin(base, location)
    except ValueError:
        raise refused("The redirect leads to no URL.") from None


def _failed(tell: str, detail: str = "") -> UpstreamError:
    return UpstreamError("fetch-failed", tell, detail)


def _too_large() -> UpstreamError:
    return UpstreamError("fetch-too-large", "The answer is larger than is taken here.")


def _late() -> UpstreamError:
    return UpstreamError("fetch-timeout", "The URL's host did not answer in time.")
