"""An attacker's HTTP: exactly the bytes that a lab wants, on a connection of their own, and the whole answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import msgspec

from doorward.base import limits
from doorward.base.errors import CallerError, DoorwardError, UpstreamError
from doorward.protocol.chunks import ChunkDecoder
from doorward.protocol.http_head import END_OF_HEAD, parse_response_head
from doorward.protocol.json_door import parse_json
from doorward.protocol.sse import SseReader

SECONDS = 10.0  # for one whole exchange
_ANSWER_BYTES = 4_194_304

Fields = list[tuple[str, str]]


class NoAnswerError(Exception):
    """No usable answer came: refused connection, time-out, cut or malformed response. It never counts as a refusal."""


class Answer(msgspec.Struct, frozen=True):
    """One HTTP answer; ``messages`` are the JSON-RPC messages in it, from a JSON body or an event stream."""

    status: int
    fields: dict[str, str]
    body: bytes
    messages: list[Any]

    @property
    def last(self) -> dict[str, Any]:
        """The last message, which of a request is its response; empty when there is none."""
        found = self.messages[-1] if self.messages else None
        return found if isinstance(found, dict) else {}

    @property
    def error(self) -> dict[str, Any]:
        """The JSON-RPC error, or an empty object."""
        found = self.last.get("error")
        return found if isinstance(found, dict) else {}

    @property
    def event(self) -> str:
        """The id of the refusal's record, or ""."""
        data = self.error.get("data")
        return str(data.get("event", "")) if isinstance(data, dict) else ""

    @property
    def is_result(self) -> bool:
        """Whether the request was served and its result is no tool error."""
        result = self.last.get("result")
        return self.status == 200 and isinstance(result, dict) and result.get("isError") is not True


def request_bytes(verb: str, path: str, fields: Fields, body: bytes) -> bytes:
    """A request as it stands, however wrong it is."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
    return f"{verb} {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body


async def exchange(host: str, port: int, raw: bytes, seconds: float = SECONDS) -> Answer:
    """Send bytes on a fresh connection and read until it ends; the request must ask for that (Connection: close).

    Raises: NoAnswerError.
    """
    try:
        async with asyncio.timeout(seconds):
            return read_answer(await _talk(host, port, raw))
    except TimeoutError as error:
        raise NoAnswerError(f"no answer within {seconds:g} s") from error
    except OSError as error:
        raise NoAnswerError(f"connection failed: {error.strerror or type(error).__name__}") from error


async def _talk(host: str, port: int, raw: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(raw)
        await writer.drain()
        content = b""
        while part := await reader.read(65_536):
            content += part
            if len(content) > _ANSWER_BYTES:
                raise NoAnswerError("the answer is too large")
        return content
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


class Events:
    """An event stream that stays open."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rest: bytes, *, chunked: bool
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._chunks = ChunkDecoder() if chunked else None
        self._events = SseReader(limits.EVENT_BYTES)
        self._kept: list[Any] = []
        self._feed(rest)

    def _feed(self, data: bytes) -> None:
        parts = [data] if self._chunks is None else self._chunks.feed(data)[0]
        for part in parts:
            self._kept += [parse_json(event.data.encode()) for event in self._events.feed(part) if event.data]

    async def until(self, fits: Callable[[Any], bool], seconds: float = SECONDS) -> list[Any]:
        """The messages up to the first that fits. Raises: NoAnswerError when it does not come in time."""
        found: list[Any] = []
        try:
            async with asyncio.timeout(seconds):
                while True:
                    while self._kept:
                        found.append(self._kept.pop(0))
                        if fits(found[-1]):
                            return found
                    data = await self._reader.read(65_536)
                    if not data:
                        raise NoAnswerError("the stream has ended")
                    self._feed(data)
        except TimeoutError as error:
            raise NoAnswerError(f"nothing of the kind on the stream within {seconds:g} s") from error
        except (OSError, DoorwardError) as error:
            raise NoAnswerError("the stream broke") from error

    async def close(self) -> None:
        """Stop listening."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


async def open_events(host: str, port: int, raw: bytes, seconds: float = SECONDS) -> Events | Answer:
    """Send a request that asks for an event stream; the whole answer where none is opened. Raises: NoAnswerError."""
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(raw)
                block = await reader.readuntil(END_OF_HEAD)
                head = parse_response_head(block)
                if head.status == 200 and head.fields.get("content-type", "").startswith("text/event-stream"):
                    return Events(reader, writer, b"", chunked=head.chunked)
                content = block + await reader.read(-1)
            except BaseException:
                writer.close()
                raise
            writer.close()
            return read_answer(content)
    except TimeoutError as error:
        raise NoAnswerError(f"no answer within {seconds:g} s") from error
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, DoorwardError) as error:
        raise NoAnswerError("no stream and no answer") from error


def read_answer(content: bytes) -> Answer:
    """Parse a whole response strictly. Raises: NoAnswerError."""
    head_bytes, found, body = content.partition(END_OF_HEAD)
    if not found:
        raise NoAnswerError("the connection ended without an answer")
    try:
        head = parse_response_head(head_bytes + END_OF_HEAD)
        if head.chunked:
            parts, complete, rest = ChunkDecoder().feed(body)
            if not complete or rest:
                raise NoAnswerError("the answer was cut off")
            body = b"".join(parts)
        elif head.content_length is not None and head.content_length != len(body):
            raise NoAnswerError("the answer was cut off")
        return Answer(head.status, head.fields, body, _messages(head.fields, body))
    except UpstreamError as error:
        raise NoAnswerError(f"the answer is malformed: {error.detail or error.tell}") from error
    except DoorwardError as error:
        raise NoAnswerError(f"the answer is malformed: {error.tell}") from error


def _messages(fields: dict[str, str], body: bytes) -> list[Any]:
    kind = fields.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "text/event-stream":
        events = SseReader(limits.EVENT_BYTES).feed(body)
        return [parse_json(event.data.encode()) for event in events if event.data]
    if kind != "application/json" or not body:
        return []
    try:
        return [parse_json(body)]
    except CallerError:
        return []
