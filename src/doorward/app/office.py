"""An office of the supervisor: one piece of state that it keeps for the workers, and what may be done with it.

Whatever needs memory in one place (grants, keys of others, pins, approvals, switches) is an office of its own file; the
list is ``app/offices.py``. The supervisor opens them in order, hands each its settings, sends what they hold to the workers
with every snapshot, answers what workers ask, and mounts their pages and their acts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from doorward.console.acts import Act

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from doorward.adapters.bus import Peer
    from doorward.app.supervisor import Supervisor
    from doorward.settings import Loaded

Answering = Callable[[int, Any], Any | Awaitable[Any]]  # (worker's index, payload) -> answer


class Office:
    """Base of every office; each overrides what it needs."""

    name: ClassVar[str]  # under which its paper lies in a snapshot

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor

    async def open(self) -> None:
        """Get ready before the first snapshot. Raises: DoorwardError when Doorward must not start."""

    def judge(self, fresh: Loaded) -> None:
        """Refuse settings that cannot be put in force (in a thread). Raises: DoorwardError; nothing may change yet."""

    def renew(self) -> None:
        """``supervisor.settings`` are new, and judged: adopt them. Must not fail."""

    async def close(self) -> None:
        """Let go of everything."""

    def paper(self) -> Any:
        """What every worker gets with a snapshot, as MessagePack can carry it; None for nothing."""

    def asks(self) -> Mapping[str, Answering]:
        """Topics that workers may ask on the bus; DoorwardError crosses to the asker."""
        return {}

    def listen(self, peer: Peer) -> None:
        """A worker has come: hear what it tells."""
        return

    def web_paths(self) -> Sequence[str]:
        """Paths of the data plane that it serves now: exact, or a prefix that ends in a slash."""
        return ()

    def web(self) -> Sequence[BaseRoute]:
        """Routes of the data plane below ``web_paths``; asked once, after ``open``."""
        return ()

    def acts(self) -> Sequence[Act]:
        """What operators may see and do through the admin plane; asked once, after ``open``."""
        return ()
