"""What a lab is: settings that open a hole, settings that close it, and an attack that says what it achieved."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import msgspec

if TYPE_CHECKING:
    from doorward.range.gate import Tables
    from doorward.range.stage import Stage

Outcome = Literal["exploited", "blocked", "inconclusive"]
Phase = Literal["vulnerable", "fixed", "rolled_back"]
PHASES: tuple[Phase, ...] = ("vulnerable", "fixed", "rolled_back")
EXPECTED: dict[Phase, Outcome] = {"vulnerable": "exploited", "fixed": "blocked", "rolled_back": "exploited"}


class Attempt(msgspec.Struct, frozen=True):
    """One variant of an attack and what came of it. ``event`` is the refusal's record, where there is one.

    ``always_blocked``: something beyond the lab's control stops this variant too, so it proves nothing of the hole.
    """

    variant: str
    outcome: Outcome
    why: str
    event: str = ""
    leaked: bool = False  # an answer held the sentinel
    always_blocked: bool = False


class Lab(ABC):
    """One attack. Only settings differ between the phases; the attack is the same in all of them."""

    name: ClassVar[str]  # "L01"
    settings: ClassVar[Tables] = {}  # in force in all phases
    vulnerable: ClassVar[Tables]  # what opens the hole
    fixed: ClassVar[Tables]  # what closes it
    upstream_allowed: ClassVar[int] = (
        0  # requests that may reach the server although the attack is blocked, in each cell
    )

    async def control(self, stage: Stage) -> bool:
        """The positive control: an ordinary call of an ordinary user is served and reaches the server."""
        return await stage.ordinary_call(stage.visitor)

    @abstractmethod
    async def attack(self, stage: Stage, session: str) -> list[Attempt]:
        """Try every variant. ``session`` is ``stage.visitor``'s own, "" in the era without sessions.

        Raises nothing: what goes wrong is an inconclusive attempt.
        """


def conclude(phase: Phase, attempts: Sequence[Attempt]) -> Outcome:
    """What all variants together show.

    One that is inconclusive makes the whole so. While the hole is open every variant must get through, or what blocks
    the rest is not what the lab switches; once it is closed, one variant that gets through is a hole.
    """
    outcomes = [one.outcome for one in attempts]
    if not outcomes or "inconclusive" in outcomes:
        return "inconclusive"
    if phase == "fixed":
        return "exploited" if "exploited" in outcomes else "blocked"
    counted = {one.outcome for one in attempts if not one.always_blocked}
    surprising = any(one.always_blocked and one.outcome == "exploited" for one in attempts)
    if surprising or counted == {"exploited"}:
        return "exploited"
    return "blocked" if counted == {"blocked"} else "inconclusive"
