"""L09, limit bypass: a caller who rotates headers and sessions gets a fresh allowance each time, without end."""

from __future__ import annotations

from typing import ClassVar

from doorward.identity.metadata import FEDERATED
from doorward.range.gate import Tables
from doorward.range.lab import Attempt, Lab
from doorward.range.stage import Stage
from doorward.range.wire import Answer, Fields, NoAnswerError

ALLOWED, BEYOND = 6, 8
_WINDOW_SECONDS = 3_600
_VARIANT = "rotation of headers and sessions"


def _refused(answer: Answer) -> bool:
    """429 that says when to come back (RFC 6585 section 4)."""
    return answer.status == 429 and answer.fields.get("retry-after", "").isdigit()


def _rotated(number: int) -> Fields:
    """Everything that a careless limit counts by, different each time."""
    return [
        ("X-Request-Id", f"request-{number}"),
        ("X-Forwarded-For", f"203.0.113.{number}"),
        ("Forwarded", f"for=203.0.113.{number}"),
        ("X-Real-IP", f"203.0.113.{number}"),
        ("X-Api-Key", f"key-{number}"),
        ("User-Agent", f"client/{number}"),
        ("Cookie", f"session={number}"),
        ("Traceparent", f"00-{number:032x}-{number:016x}-01"),
    ]


class LimitBypass(Lab):
    """Blocked means exact: as many requests succeed as allowed and not one more, and a second caller is unaffected."""

    name: ClassVar[str] = "L09"
    settings: ClassVar[Tables] = {"limits": {"calls": ALLOWED, "per_seconds": _WINDOW_SECONDS}}
    vulnerable: ClassVar[Tables] = {"controls.limit-rate": {"mode": "off"}}
    fixed: ClassVar[Tables] = {"controls.limit-rate": {"mode": "enforce"}}
    # The attacker's allowance and what the second caller uses; each call may open a session at its server first.
    upstream_allowed: ClassVar[int] = 2 * (ALLOWED + 1)

    async def attack(self, stage: Stage, session: str) -> list[Attempt]:
        attacker, second = stage.fresh("attacker"), stage.fresh("second")
        try:
            answers = await self._rotate(stage, attacker)
        except NoAnswerError as trouble:
            return [Attempt("rotation", "inconclusive", str(trouble))]
        unaffected = await stage.ordinary_call(second)
        found = _judge(answers, [stage.leaks(answer) for answer in answers])
        if not unaffected:
            # A limit that hits others as well is an attack of its own.
            found.append(
                Attempt("a second caller meanwhile", "inconclusive", "a second caller is not served")
            )
        return found

    @staticmethod
    async def _rotate(stage: Stage, user: str) -> list[Answer]:
        """More requests than allowed, each with another token of another client.

        Every second one goes another way: by the endpoint of all servers, or in the older era with a new session.
        """
        found: list[Answer] = []
        while len(found) < ALLOWED + BEYOND:
            number = len(found) + 1
            variant, marker = f"rotation {number}", stage.fresh("rotated")
            server = FEDERATED if stage.era == "modern" and number % 2 else stage.server
            extra = [*stage.bearer(user, server, f"client-{number}"), *_rotated(number)]
            session = ""
            if stage.era == "legacy":
                answer, session = await stage.open_session(variant, extra)
                found.append(answer)
                if not session:
                    continue
            tool = "read_record" if server == stage.server else f"{stage.server}__read_record"
            message = stage.call(tool, id="1", marker=marker)
            fields = [*stage.fields_of(message, session), *extra]
            found.append(await stage.post(variant, message, fields, server=server))
        return found


def _judge(answers: list[Answer], leaks: list[bool]) -> list[Attempt]:
    """Exploited: more than allowed succeeded. Blocked: exactly that many, then nothing but 429."""
    served = [answer.is_result for answer in answers]
    count = sum(served)
    why = f"{count} of {len(answers)} requests served, {ALLOWED} allowed"
    if count > ALLOWED:
        return [Attempt(_VARIANT, "exploited", why, leaked=any(leaks[ALLOWED:]))]
    refused = [answer for answer in answers if _refused(answer)]
    exact = count == ALLOWED and all(served[:ALLOWED]) and len(refused) == len(answers) - ALLOWED
    if not exact:
        return [Attempt(_VARIANT, "inconclusive", why)]
    late = any(leaks[ALLOWED:])
    return [Attempt(_VARIANT, "blocked", f"{why}; status 429", answer.event, late) for answer in refused]


LAB = LimitBypass()
