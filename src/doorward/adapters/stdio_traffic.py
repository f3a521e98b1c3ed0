"""Whose message is whose at one stdio process: ids, progress tokens and subscriptions rewritten and put back.

Towards the server every id and token is ours; what it asks or says on its own goes to whoever it can belong to, and to
nobody else (ST-06, CF-15).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from doorward.base import limits
from doorward.base.errors import UpstreamError
from doorward.protocol import codes
from doorward.protocol.envelope import error, notification, request, response, with_id
from doorward.protocol.message import Message, MessageId

_log = logging.getLogger("doorward.stdio")
_SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"
_TO_EVERYONE = frozenset(
    {
        "notifications/tools/list_changed",
        "notifications/prompts/list_changed",
        "notifications/resources/list_changed",
        "notifications/resources/updated",
    }
)
_ASKED_COUNT = 256  # requests of one server that wait for a client's answer


class Outlet(Protocol):
    """Where an attachment's messages go: a channel of the bus."""

    @property
    def is_congested(self) -> bool: ...

    def message(self, number: int, message: Message) -> None: ...

    def done(self, number: int) -> None: ...

    def failed(self, number: int, error: UpstreamError) -> None: ...


class Attachment:
    """One client session (legacy) or one worker's clients of a principal (modern) at a process."""

    def __init__(self, outlet: Outlet) -> None:
        self.outlet = outlet
        self.calls: dict[int, Call] = {}  # by the number of the post
        self.listeners: list[int] = []

    def latest(self) -> int | None:
        """The number to send on what belongs to no particular call: the latest call, else a listener."""
        if self.calls:
            return next(reversed(self.calls))
        return self.listeners[-1] if self.listeners else None

    def listener(self) -> int | None:
        """The number to send on what the server says to everyone."""
        if self.listeners:
            return self.listeners[-1]
        return next(reversed(self.calls)) if self.calls else None


class Call(msgspec.Struct, eq=False):
    """A request under way."""

    owner: Attachment
    number: int
    ours: int  # the id that the server sees
    id: MessageId
    method: str
    token: Any = None
    timer: asyncio.TimerHandle | None = None


class Asked(msgspec.Struct, frozen=True):
    """A request of the server that waits for a client's answer."""

    owner: Attachment
    id: MessageId


class Own(msgspec.Struct, frozen=True):
    """A request that Doorward itself put to the server."""

    answered: Callable[[Message], None]


class Traffic:
    """The requests under way at one process, in both directions."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.attachments: set[Attachment] = set()
        self.strays = 0  # answers to questions nobody asked
        self._calls: dict[int, Call | Own] = {}
        self._asked: dict[str, Asked] = {}
        self._counter = 0
        self._answered = False  # this process has answered a client

    def _send(self, message: Message) -> None:
        """Write to the process, if there is one."""
        raise NotImplementedError

    def _settled(self) -> None:
        """A call is over."""
        raise NotImplementedError

    def _ask(self, method: str, params: dict[str, Any], answered: Callable[[Message], None]) -> None:
        self._counter += 1
        self._calls[self._counter] = Own(answered)
        self._send(request(self._counter, method, params))

    def _call(self, attachment: Attachment, number: int, message: Message) -> None:
        self._counter += 1
        ours = self._counter
        call = Call(attachment, number, ours, message.id if message.id is not None else "", message.method)
        sent = with_id(message, ours)
        meta = None if message.params is None else message.params.get("_meta")
        if isinstance(meta, dict) and "progressToken" in meta:
            call.token = meta["progressToken"]
            params = {**(message.params or {}), "_meta": {**meta, "progressToken": ours}}
            sent.value["params"] = params
        self._calls[ours] = call
        attachment.calls[number] = call
        if message.method != "subscriptions/listen":
            loop = asyncio.get_running_loop()
            call.timer = loop.call_later(limits.UPSTREAM_SECONDS, self._overdue, call)
        self._send(sent)

    def _overdue(self, call: Call) -> None:
        self._cancel(call, "The request took too long.")
        call.owner.outlet.failed(
            call.number, UpstreamError("upstream-timeout", "The protected server did not answer in time.")
        )

    def _cancel(self, call: Call, reason: str) -> None:
        if self._forget(call) and call.method != "initialize":
            self._send(notification("notifications/cancelled", {"requestId": call.ours, "reason": reason}))

    def _forget(self, call: Call) -> bool:
        call.owner.calls.pop(call.number, None)
        if call.timer is not None:
            call.timer.cancel()
        found = self._calls.pop(call.ours, None) is not None
        self._settled()
        return found

    def _notify(self, attachment: Attachment, message: Message) -> None:
        if message.method == "notifications/cancelled":
            wanted = (message.params or {}).get("requestId")
            for call in list(attachment.calls.values()):
                if type(call.id) is type(wanted) and call.id == wanted:
                    params = {**(message.params or {}), "requestId": call.ours}
                    self._send(notification(message.method, params))
            return
        self._send(message)

    def _answer(self, attachment: Attachment, message: Message) -> None:
        """A client's answer to what the server asked."""
        asked = self._asked.get(message.id) if isinstance(message.id, str) else None
        if asked is not None and asked.owner is attachment and isinstance(message.id, str):
            del self._asked[message.id]
            self._send(with_id(message, asked.id))

    def _response(self, message: Message) -> None:
        call = self._calls.get(message.id) if type(message.id) is int else None
        if call is None:
            self.strays += 1
            _log.warning("a server answered a question nobody asked", extra={"server": self.name})
            return
        if isinstance(call, Own):
            self._calls.pop(message.id, None)  # type: ignore[arg-type]
            return call.answered(message)
        self._answered = True
        self._forget(call)
        answer = with_id(message, call.id)
        if call.method == "subscriptions/listen":
            answer = _with_subscription(answer, call.id)
        call.owner.outlet.message(call.number, answer)
        return call.owner.outlet.done(call.number)

    def _request(self, message: Message) -> None:
        """The server asks something: of the client that works with it now, or else of one that listens."""
        if message.id is None:
            return
        if message.method == "ping":
            return self._send(response(message.id, {}))
        owner, number = self._addressee()
        if owner is None or number is None or len(self._asked) >= _ASKED_COUNT:
            return self._reply_gone(message.id)
        self._counter += 1
        ours = f"s{self._counter}"
        self._asked[ours] = Asked(owner, message.id)
        return owner.outlet.message(number, with_id(message, ours))

    def _reply_gone(self, message_id: MessageId) -> None:
        self._send(error(message_id, codes.INTERNAL_ERROR, "No client is there to answer."))

    def _addressee(self) -> tuple[Attachment | None, int | None]:
        calls = [call for call in self._calls.values() if isinstance(call, Call)]
        if calls:
            return calls[-1].owner, calls[-1].number
        for attachment in self.attachments:
            if attachment.listeners:
                return attachment, attachment.listeners[-1]
        return None, None

    def _notice(self, message: Message) -> None:
        params = message.params or {}
        meta = params.get("_meta")
        if message.method == "notifications/progress":
            return self._progress(message, params)
        if isinstance(meta, dict) and _SUBSCRIPTION in meta:
            call = self._call_of(meta[_SUBSCRIPTION])
            if call is not None:
                call.owner.outlet.message(call.number, _with_subscription(message, call.id))
            return None
        if message.method == "notifications/cancelled":
            for ours, asked in list(self._asked.items()):
                if asked.id == params.get("requestId") and type(asked.id) is type(params.get("requestId")):
                    del self._asked[ours]
                    number = asked.owner.latest()
                    if number is not None:
                        told = notification(message.method, {**params, "requestId": ours})
                        asked.owner.outlet.message(number, told)
            return None
        everyone = message.method in _TO_EVERYONE
        working = [one for one in self.attachments if one.calls]
        for attachment in list(self.attachments) if everyone or not working else working:
            number = attachment.listener() if everyone else attachment.latest()
            if number is not None:
                attachment.outlet.message(number, message)
        return None

    def _progress(self, message: Message, params: dict[str, Any]) -> None:
        """Progress of a live call, under the token that its caller chose; anything else is dropped (CF-15)."""
        call = self._call_of(params.get("progressToken"))
        if call is not None and call.token is not None:
            told = notification(message.method, {**params, "progressToken": call.token})
            call.owner.outlet.message(call.number, told)

    def _call_of(self, ours: Any) -> Call | None:
        if type(ours) is str and ours.isascii() and ours.isdigit() and len(ours) < 19:
            ours = int(ours)  # some servers make strings of ids
        call = self._calls.get(ours) if type(ours) is int else None
        return call if isinstance(call, Call) else None

    def on_malformed(self) -> None:
        """See ``ChildEvents``: when one call only is under way, the line can only have been its answer."""
        calls = [call for call in self._calls.values() if isinstance(call, Call)]
        if len(calls) == 1:
            call = calls[0]
            self._forget(call)
            call.owner.outlet.failed(
                call.number,
                UpstreamError("upstream-malformed", "The protected server sent a malformed message."),
            )


def _with_subscription(message: Message, subscription: MessageId) -> Message:
    """The message with a client's own subscription id in ``_meta``, where it has one."""
    member = "params" if message.kind == "notification" else "result"
    inner = message.value.get(member)
    meta = inner.get("_meta") if isinstance(inner, dict) else None
    if not isinstance(inner, dict) or not isinstance(meta, dict) or _SUBSCRIPTION not in meta:
        return message
    inner = {**inner, "_meta": {**meta, _SUBSCRIPTION: subscription}}
    params = inner if member == "params" else None
    return Message(message.kind, message.method, message.id, params, {**message.value, member: inner})
