"""A worker's way to stdio servers: the processes live in the supervisor, one channel of the bus leads to each relation."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from doorward.adapters.bus import Channel, Peer
from doorward.base import limits
from doorward.base.errors import CallerError, UpstreamError
from doorward.catalogue.server import ServerSpec
from doorward.gateway.ports import Cancel, Link, Sink
from doorward.protocol.envelope import parse_message
from doorward.protocol.json_door import encode_json
from doorward.protocol.message import Era, Message

_log = logging.getLogger("doorward.upstream")
_STOPPED = "The protected server has stopped."
_UNUSABLE = "The protected server sent a message that cannot be passed on."


class StdioLink:
    """One relation with one process; see ``gateway.ports.Link``."""

    def __init__(
        self, ready: Callable[[Link | UpstreamError], None], on_over: Callable[[StdioLink], None]
    ) -> None:
        self.channel: Channel | None = None
        self.is_ready = False
        self.is_over = False
        self._waiting = [ready]
        self._on_over = on_over
        self._counter = 0
        self._sinks: dict[int, Sink] = {}
        self._slow: set[int] = set()

    @property
    def is_idle(self) -> bool:
        """True while nothing is under way."""
        return not self._sinks and not self._waiting

    def when_ready(self, ready: Callable[[Link | UpstreamError], None]) -> None:
        """Call ``ready`` once the process takes messages, or with the reason why it never will."""
        if self.is_ready:
            ready(self)
        else:
            self._waiting.append(ready)

    def post(self, message: Message, sink: Sink) -> Cancel:
        """See ``gateway.ports.Link``."""
        return self._begin(sink, "post", encode_json(message.value))

    def listen(self, last_event_id: str, sink: Sink) -> Cancel:
        """See ``gateway.ports.Link``. A process keeps no past, so there is nothing to resume."""
        return self._begin(sink, "listen")

    def _begin(self, sink: Sink, *words: Any) -> Cancel:
        if self.is_over or self.channel is None:
            asyncio.get_running_loop().call_soon(sink.failed, UpstreamError("upstream-exited", _STOPPED))
            return _nothing
        self._counter += 1
        number = self._counter
        self._sinks[number] = sink
        self.channel.send([words[0], number, *words[1:]])
        return lambda: self._cancel(number)

    def _cancel(self, number: int) -> None:
        if self._sinks.pop(number, None) is not None and self.channel is not None:
            self.channel.send(["cancel", number])
        self._faster(number)

    def close(self) -> None:
        """See ``gateway.ports.Link``."""
        if not self.is_over and self.channel is not None:
            self.is_over = True
            self._on_over(self)
            self.channel.close("closed")
            self._fail_all(UpstreamError("upstream-exited", "The relation with the protected server ended."))

    # -- from the bus -------------------------------------------------------------------------------------------

    def heard(self, payload: Any) -> None:
        """A message of the supervisor."""
        match payload:
            case ["message", int(number), bytes(body)]:
                self._message(number, body)
            case ["done", int(number)]:
                sink = self._sinks.pop(number, None)
                self._faster(number)
                if sink is not None:
                    sink.done()
            case ["failed", int(number), str(code), str(tell), str(detail)]:
                sink = self._sinks.pop(number, None)
                self._faster(number)
                if sink is not None:
                    sink.failed(UpstreamError(code, tell, detail))
            case ["ready"]:
                self.is_ready = True
                waiting, self._waiting = self._waiting, []
                for ready in waiting:
                    ready(self)
            case ["refused", str(code), str(tell), str(detail)]:
                self._end(UpstreamError(code, tell, detail))
            case _:
                self._end(UpstreamError("upstream-exited", _STOPPED, "an unknown message on the bus"))

    def _message(self, number: int, body: bytes) -> None:
        sink = self._sinks.get(number)
        if sink is None:
            return
        try:
            message = parse_message(body)
        except CallerError as error:  # the supervisor has parsed it before: a bug there
            self._sinks.pop(number, None)
            return sink.failed(UpstreamError("upstream-malformed", error.tell))
        try:
            if self._is_aside(message):
                sink.streaming()
            sink.message(message)
        except Exception as error:  # noqa: BLE001 - whatever a server found out about us costs this exchange only
            _log.error("a server's message could not be handled", exc_info=error)
            self._cancel(number)
            return sink.failed(UpstreamError("upstream-unusable", _UNUSABLE))
        if sink.is_paused and number in self._sinks and self.channel is not None:
            self._slow.add(number)
            self.channel.pause()
            sink.on_writable = lambda: self._faster(number)
        return None

    @staticmethod
    def _is_aside(message: Message) -> bool:
        """True for what comes before the answer, for which the client's answer has to be a stream."""
        return message.kind != "response"

    def _faster(self, number: int) -> None:
        if number in self._slow:
            self._slow.discard(number)
            if not self._slow and self.channel is not None:
                self.channel.resume()

    def closed(self, reason: str) -> None:
        """The supervisor closed the channel, or is gone."""
        self._end(UpstreamError("upstream-exited", _STOPPED, reason))

    def _end(self, error: UpstreamError) -> None:
        if not self.is_over:
            self.is_over = True
            self._on_over(self)
        self._fail_all(error)

    def _fail_all(self, error: UpstreamError) -> None:
        waiting, self._waiting = self._waiting, []
        sinks, self._sinks = self._sinks, {}
        for ready in waiting:
            ready(error)
        for sink in sinks.values():
            sink.failed(error)


class StdioUpstream:
    """One stdio server as a worker sees it; see ``gateway.ports.Upstream``."""

    def __init__(self, peer: Peer, spec: ServerSpec) -> None:
        self.name = spec.name
        self._peer = peer
        self._modern: dict[str, StdioLink] = {}  # by principal; a modern relation has no beginning and no end
        self._sweeping: asyncio.TimerHandle | None = None
        self._used: dict[str, float] = {}

    def link(
        self,
        principal: str,
        era: Era,
        version: str,
        capabilities: dict[str, Any],
        ready: Callable[[Link | UpstreamError], None],
    ) -> None:
        """See ``gateway.ports.Upstream``."""
        if era == "legacy":
            self._open(principal, era, version, capabilities, ready, lambda _: None)
            return
        self._used[principal] = asyncio.get_running_loop().time()
        known = self._modern.get(principal)
        if known is not None:
            return known.when_ready(ready)
        self._modern[principal] = link = self._open(
            principal, era, version, {}, ready, lambda over: self._forget(principal, over)
        )
        if link.is_over:
            self._forget(principal, link)
        elif self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().call_later(limits.CHILD_IDLE_SECONDS, self._sweep)
        return None

    def _open(
        self,
        principal: str,
        era: Era,
        version: str,
        capabilities: dict[str, Any],
        ready: Callable[[Link | UpstreamError], None],
        on_over: Callable[[StdioLink], None],
    ) -> StdioLink:
        link = StdioLink(ready, on_over)
        payload = {
            "server": self.name,
            "principal": principal,
            "era": era,
            "version": version,
            "capabilities": capabilities,
        }
        link.channel = self._peer.open("stdio", payload, on_message=link.heard, on_close=link.closed)
        return link

    def _forget(self, principal: str, link: StdioLink) -> None:
        if self._modern.get(principal) is link:
            del self._modern[principal]
            self._used.pop(principal, None)

    def _sweep(self) -> None:
        """Let go of relations that nobody used for a while, so that their processes can end."""
        loop = asyncio.get_running_loop()
        for principal, link in list(self._modern.items()):
            if link.is_idle and loop.time() - self._used.get(principal, 0.0) > limits.CHILD_IDLE_SECONDS:
                link.close()
        self._sweeping = loop.call_later(limits.CHILD_IDLE_SECONDS, self._sweep) if self._modern else None


def _nothing() -> None:
    """Cancel what is over."""
