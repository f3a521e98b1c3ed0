"""L21, state tampering: what a client carries between two rounds of a call is changed, stolen, used elsewhere or twice."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from doorward.protocol import codes
from doorward.range.gate import Tables
from doorward.range.lab import Attempt, Lab
from doorward.range.records import ANSWER, decode_state, encode_state
from doorward.range.stage import Stage
from doorward.range.wire import Answer, NoAnswerError

_CAN: dict[str, Any] = {"elicitation": {}}
_THIEF = "thief"
_NUMBERED = re.compile(r"(.*-)([0-9]+)")


def _refused(answer: Answer) -> bool:
    """-32602 by the control that opens states (MCP 2026-07-28 basic/patterns/mrtr)."""
    data = answer.error.get("data")
    by = data.get("control") if isinstance(data, dict) else ""
    return answer.error.get("code") == codes.INVALID_PARAMS and by == "seal-state"


def _gone(answer: Answer) -> bool:
    """-32602 by whoever: there is nothing to go on with."""
    return answer.error.get("code") == codes.INVALID_PARAMS


def changed(state: str) -> str:
    """What an attacker makes of a state of their own: another record's, or another call's; else some byte is another."""
    value = decode_state(state)
    if value is not None and "record" in value:
        return encode_state({**value, "record": "of-somebody-else"})
    numbered = _NUMBERED.fullmatch(state)
    if numbered is not None:
        return f"{numbered[1]}{int(numbered[2]) - 1}"
    middle = len(state) // 2
    return state[:middle] + ("A" if state[middle] != "A" else "B") + state[middle + 1 :]


class StateTampering(Lab):
    """The server is naive: it believes every state that it can read, as often as it comes and from whom it comes."""

    name: ClassVar[str] = "L21"
    settings: ClassVar[Tables] = {
        "servers.records-modern": {"allow_requests": ["elicitation"]},
        "servers.records-legacy": {"allow_requests": ["elicitation"]},
    }
    vulnerable: ClassVar[Tables] = {"controls.seal-state": {"mode": "off"}}
    fixed: ClassVar[Tables] = {"controls.seal-state": {"mode": "enforce"}}
    upstream_allowed: ClassVar[int] = (
        20  # the first rounds, what opens sessions for them, and one honest second round
    )

    async def attack(self, stage: Stage, session: str) -> list[Attempt]:
        try:
            return [
                await self._back(stage, "a changed state", await self._pair(stage), _THIEF),
                await self._back(
                    stage, "another caller's state", await self._ask(stage, stage.visitor), _THIEF
                ),
                await self._back(
                    stage,
                    "for another tool",
                    await self._ask(stage, stage.visitor),
                    stage.visitor,
                    "erase_record",
                ),
                await self._back(
                    stage,
                    "for another record",
                    await self._ask(stage, stage.visitor),
                    stage.visitor,
                    record="9",
                ),
                await self._twice(stage),
            ]
        except NoAnswerError as trouble:
            return [Attempt("first round", "inconclusive", str(trouble))]

    async def _pair(self, stage: Stage) -> str:
        """The owner has a call under way, and then the thief, who makes the owner's of their own state."""
        await self._ask(stage, stage.visitor)
        return changed(await self._ask(stage, _THIEF))

    @staticmethod
    async def _ask(stage: Stage, user: str) -> str:
        """The first round: the state that came with the question. Raises: NoAnswerError."""
        call = {"name": "confirm_record", "arguments": {"id": "1"}}
        message = stage.message("tools/call", call, can=_CAN)
        answer = await stage.post("first round", message, [*stage.fields_of(message), *stage.bearer(user)])
        result = answer.last.get("result")
        state = result.get("requestState") if isinstance(result, dict) else None
        if not isinstance(state, str):
            raise NoAnswerError("the server did not ask")
        return state

    @staticmethod
    def _second(stage: Stage, state: str, tool: str, record: str) -> dict[str, Any]:
        answers = {"sure": ANSWER, "ask-1": ANSWER}  # the question's name is the server's, or Doorward's
        call = {"name": tool, "arguments": {"id": record}, "inputResponses": answers, "requestState": state}
        return stage.message("tools/call", call, number=2, can=_CAN)

    async def _back(
        self,
        stage: Stage,
        variant: str,
        state: str,
        user: str,
        tool: str = "confirm_record",
        record: str = "1",
    ) -> Attempt:
        message = self._second(stage, state, tool, record)
        return await stage.attempt(
            variant, message, [*stage.fields_of(message), *stage.bearer(user)], _refused
        )

    async def _twice(self, stage: Stage) -> Attempt:
        """Exactly one use succeeds. A call that waits in Doorward can go on once only, in any setting."""
        state = await self._ask(stage, stage.visitor)
        message = self._second(stage, state, "confirm_record", "1")
        fields = [*stage.fields_of(message), *stage.bearer(stage.visitor)]
        first = await stage.post("an honest second round", message, fields)
        if not first.is_result or not stage.leaks(first):
            return Attempt(
                "used twice", "inconclusive", f"an honest second round fails: status {first.status}"
            )
        waits_here = stage.cell == "modern-legacy"
        refused = _gone if waits_here else _refused
        return await stage.attempt("used twice", message, fields, refused, always_blocked=waits_here)


LAB = StateTampering()
