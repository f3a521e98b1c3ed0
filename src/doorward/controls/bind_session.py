"""A session is its owner's alone: its id opens nothing for any other principal (2025-11-25 basic/security_best_practices,
session hijacking; SF-26)."""

from __future__ import annotations

from typing import ClassVar

from doorward.controls.control import Answer, Claim, Control, Refuse
from doorward.identity.principal import Principal
from doorward.protocol import codes

SESSION_NOT_FOUND = "Session not found; initialize again."
SESSION_HELP = "Open a session of your own with initialize."


class BindSession(Control):
    """Another principal's session, its streams and what they replay answer as a session that does not exist.

    Who owns a session is in the worker that made it; its id is sealed and names that worker only. The token is checked
    on every request all the same: an id never stands for one.

    Fails: a session that cannot be found is nobody's, and refused.
    """

    slug: ClassVar[str] = "bind-session"
    covers: ClassVar[tuple[str, ...]] = ("M3",)
    partly: ClassVar[tuple[str, ...]] = ("S2.1", "S2.2")
    floor: ClassVar[bool] = True

    def claim(self, caller: Principal, claim: Claim) -> Answer:
        return missing_session(claim.fault) if claim.kind == "session" else None


def missing_session(reason: str) -> Refuse:
    """The one answer to a session that is not there and to one that is somebody else's: no oracle."""
    return Refuse(
        reason=reason,
        tell=SESSION_NOT_FOUND,
        code=codes.INVALID_REQUEST,
        status=404,
        help=SESSION_HELP,
    )
