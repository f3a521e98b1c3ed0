"""What a client carries between two rounds of a call is sealed, bound and good once (2026-07-28 basic/patterns/mrtr,
requestState; MR-03)."""

from __future__ import annotations

from typing import ClassVar

from doorward.controls.control import Answer, Claim, Control, Refuse
from doorward.identity.principal import Principal
from doorward.protocol import codes

STATE_INVALID = "The requestState is not valid (any more)."
STATE_HELP = "Make the call again without a requestState."


class SealState(Control):
    """A ``requestState`` reaches its client sealed, and opens once, in time, for the same caller, server and request.

    That holds for states of Doorward's own and for those that a server made: whether it protects them does not matter.

    Fails: a state that does not open, for whatever reason, is refused before the server is touched.
    """

    slug: ClassVar[str] = "seal-state"
    partly: ClassVar[tuple[str, ...]] = ("M3", "S2.2", "N2.1", "N2.2", "N2.3", "N2.4")
    floor: ClassVar[bool] = True

    def claim(self, caller: Principal, claim: Claim) -> Answer:
        if claim.kind != "state":
            return None
        return Refuse(reason=claim.fault, tell=STATE_INVALID, code=codes.INVALID_PARAMS, help=STATE_HELP)
