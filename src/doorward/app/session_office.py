"""The office that ends the sessions of a caller when an operator says so.

Sessions live in the workers; what crosses to them is who was meant, with a number, so that each worker does it once. A worker that starts
later has no sessions of before. Access tokens are not touched: revoking those is another act.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from doorward.app.office import Office
from doorward.base.errors import CallerError
from doorward.console.acts import Act, Asked

if TYPE_CHECKING:
    from doorward.app.supervisor import Supervisor
    from doorward.identity.principal import Principal

_KEPT_COUNT = 256  # a worker that is further behind than so many acts is not serving any more
_NAME_CHARS = 1_024
_SCHEMA = {
    "type": "object",
    "required": ["principal"],
    "additionalProperties": False,
    "properties": {
        "principal": {
            "type": "string",
            "minLength": 1,
            "maxLength": _NAME_CHARS,
            "description": "a subject, or tenant|issuer|subject|client as the record has it",
        }
    },
}


class Sessions(Office):
    """Tells the workers whose sessions end."""

    name = "sessions"

    def __init__(self, supervisor: Supervisor) -> None:
        super().__init__(supervisor)
        self._killed: list[tuple[int, str]] = []
        self._count = 0

    def paper(self) -> Any:
        """See ``Office``."""
        return {"killed": self._killed} if self._killed else None

    def acts(self) -> Sequence[Act]:
        """See ``Office``."""
        told = "End the sessions, streams and calls of a caller on all workers."
        return [Act("POST", "sessions/kill", told, self._kill, _SCHEMA)]

    def _kill(self, asked: Asked) -> dict[str, Any]:
        match asked.body:
            case {"principal": str(who)} if 0 < len(who) <= _NAME_CHARS and len(asked.body) == 1:
                pass
            case _:
                raise CallerError("sessions-kill", "Name the principal whose sessions end, and nothing else.")
        self._count += 1
        self._killed = [*self._killed[1 - _KEPT_COUNT :], (self._count, who)]
        self.supervisor.note("sessions-killed", asked.who, item=who, verdict="refuse")
        self.supervisor.push()
        return {"killed": who, "generation": self.supervisor.generation}


class Killed:
    """The worker's side: does each act once."""

    def __init__(self) -> None:
        self._done = 0

    def fresh(self, papers: dict[str, Any] | None) -> Callable[[str, Principal | None], bool]:
        """Whether a caller (by key, and as last seen) is meant by an act that was not done here yet."""
        rows = ((papers or {}).get("sessions") or {}).get("killed") or []
        names = {str(name) for number, name in rows if number > self._done}
        self._done = max([self._done, *(int(number) for number, _ in rows)])
        return lambda key, who: key in names or (who is not None and who.subject in names)
