"""The face of a data plane towards its clients: the HTTP listener of the settings, or another, such as standard input and output."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Any, Protocol

from doorward.adapters.outbox import Outbox
from doorward.gateway.facts import FactBook
from doorward.gateway.front import Gateway


class ClientFace(Protocol):
    """What a data plane needs of the face towards its clients."""

    @property
    def port(self) -> int: ...

    @property
    def faces(self) -> Collection[Any]: ...

    def close(self) -> None: ...

    async def drain(self, seconds: float) -> None: ...

    def forget_heads(self) -> None: ...


OpenFace = Callable[[Gateway, Outbox, FactBook], Awaitable[ClientFace]]
