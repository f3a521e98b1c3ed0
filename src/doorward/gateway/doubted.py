"""Questions that a legacy server asks on its own stream: they wait until it is certain which call they belong to.

What comes there should have nothing to do with any call (2025-11-25 basic/transports, listening for messages), yet some servers
ask there for a call that is under way. A client of the 2026 era can be asked in answer to a call only, so a question is given
to the one call that could have asked it. Where several could, it waits for all but one to end, and not for long.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from doorward.gateway.desk import DeafSink
from doorward.gateway.ports import Cancel, Later, Sink
from doorward.protocol import codes
from doorward.protocol.envelope import error
from doorward.protocol.json_door import encode_json
from doorward.protocol.message import Message

if TYPE_CHECKING:
    from doorward.gateway.cell_b_call import ParkedCall

DOUBT_SECONDS = 10.0
_COUNT = 32  # questions of one session that wait so ...
_BYTES = 1_048_576  # ... and what they hold together
_TELL = "Nobody can be asked outside of a call."


class Doubted:
    """The questions of one session at a server that nobody has been asked yet."""

    def __init__(
        self,
        asking: Callable[[], list[ParkedCall]],
        send: Callable[[Message, Sink], Cancel],
        later: Later,
    ) -> None:
        """``asking`` finds the calls that could have asked; ``send`` answers the server."""
        self._asking = asking
        self._send = send
        self._later = later
        self._waiting: list[Message] = []
        self._held_bytes = 0

    def ask(self, message: Message) -> None:
        """Ask whoever it must be; wait where that is not certain yet."""
        could = self._asking()
        if len(could) == 1:
            could[0].asked(message)
        elif not could or not self._keep(message):
            self._refuse(message)

    def _keep(self, message: Message) -> bool:
        size = len(encode_json(message.value))
        if len(self._waiting) >= _COUNT or self._held_bytes + size > _BYTES:
            return False
        self._held_bytes += size
        self._waiting.append(message)
        self._later(DOUBT_SECONDS, lambda: self._overdue(message))
        return True

    def look(self) -> None:
        """A call has ended or waits for its client: perhaps it is certain now."""
        if self._waiting and len(self._asking()) < 2:
            for message in self._take():
                self.ask(message)

    def _take(self) -> list[Message]:
        waiting, self._waiting, self._held_bytes = self._waiting, [], 0
        return waiting

    def close(self) -> None:
        """The session ends, and with it whatever its server wanted to know."""
        self._take()

    def _overdue(self, message: Message) -> None:
        if any(one is message for one in self._waiting):
            self._waiting = [one for one in self._waiting if one is not message]
            self._held_bytes -= len(encode_json(message.value))
            self._refuse(message)

    def _refuse(self, message: Message) -> None:
        self._send(error(message.id, codes.METHOD_NOT_FOUND, _TELL), DeafSink())
