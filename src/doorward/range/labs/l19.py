"""L19, session hijack: whoever learns a session's id works in it, hears its stream, and speaks on it to its owner."""

from __future__ import annotations

from typing import Any, ClassVar

from doorward.range.gate import Tables
from doorward.range.lab import Attempt, Lab, Outcome
from doorward.range.stage import Stage
from doorward.range.wire import Answer, Events, Fields, NoAnswerError

_THIEF = "thief"


def _refused(answer: Answer) -> bool:
    """404, as for a session that does not exist (MCP 2025-11-25 basic/transports, session management)."""
    data = answer.error.get("data")
    return answer.status == 404 and isinstance(data, dict) and data.get("control") == "bind-session"


def _unauthorised(answer: Answer) -> bool:
    return answer.status == 401


class SessionHijack(Lab):
    """The owner has a session; the thief has its id, once without a token and then with a good one of their own."""

    name: ClassVar[str] = "L19"
    vulnerable: ClassVar[Tables] = {"controls.bind-session": {"mode": "off"}}
    fixed: ClassVar[Tables] = {"controls.bind-session": {"mode": "enforce"}}
    upstream_allowed: ClassVar[int] = 16  # the owner's own subscriptions, calls and sessions

    async def attack(self, stage: Stage, session: str) -> list[Attempt]:
        thief = stage.bearer(_THIEF)
        found = []
        for variant, message in (
            ("call a tool in it", stage.call("read_record", id="1", marker=stage.fresh("stolen"))),
            ("list resources in it", stage.message("resources/list")),
        ):
            own = stage.fields_of(message, session)
            # An id never stands for a token, whatever binds sessions to their owners.
            found.append(
                await stage.attempt(f"no token: {variant}", message, own, _unauthorised, always_blocked=True)
            )
            found.append(
                await stage.attempt(f"another's token: {variant}", message, [*own, *thief], _refused)
            )
        found.append(await self._poison(stage, session, thief))
        found.append(await self._overhear(stage, session, thief))
        found.append(await self._replay(stage, session, thief))
        found.append(await self._end(stage, thief))
        return found

    async def _poison(self, stage: Stage, session: str, thief: Fields) -> Attempt:
        """What the thief does in the session comes to the owner as if their own server said it."""
        variant, poison = "queue poisoning", stage.fresh("poison")
        try:
            heard = await stage.hear("the owner listens", session, stage.bearer(stage.visitor))
            if isinstance(heard, Answer):
                return Attempt(variant, "inconclusive", f"the owner cannot listen: status {heard.status}")
            try:
                first = await self._watch(stage, variant, session, thief, poison)
                told = await self._own_event(stage, session, heard)
            finally:
                await heard.close()
        except NoAnswerError as trouble:
            return Attempt(variant, "inconclusive", str(trouble))
        if any(poison in str(message) for message in told):
            return Attempt(
                variant, "exploited", "the owner's stream holds what the thief made the server say"
            )
        if _refused(first):
            return Attempt(
                variant, "blocked", "status 404; the owner's stream holds its own only", first.event
            )
        return Attempt(variant, "inconclusive", f"status {first.status}, and nothing reached the owner")

    async def _overhear(self, stage: Stage, session: str, thief: Fields) -> Attempt:
        """The thief opens the owner's stream, and what is meant for the owner comes to the thief."""
        variant = "listen in it"
        try:
            heard = await stage.hear(variant, session, thief)
            if isinstance(heard, Answer):
                outcome: Outcome = "blocked" if _refused(heard) else "inconclusive"
                return Attempt(variant, outcome, f"status {heard.status}", heard.event)
            try:
                await self._own_event(stage, session, heard)
            finally:
                await heard.close()
        except NoAnswerError as trouble:
            return Attempt(variant, "inconclusive", str(trouble))
        return Attempt(variant, "exploited", "the thief hears what the server tells the owner")

    async def _replay(self, stage: Stage, session: str, thief: Fields) -> Attempt:
        """The thief resumes the owner's stream from its start, and gets what the owner was told before."""
        variant = "replay its stream"
        try:
            mine = await stage.hear("the owner listens", session, stage.bearer(stage.visitor))
            if isinstance(mine, Answer):
                return Attempt(variant, "inconclusive", f"the owner cannot listen: status {mine.status}")
            try:
                told = (await self._own_event(stage, session, mine))[-1]
            finally:
                await mine.close()
            heard = await stage.hear(variant, session, [*thief, ("Last-Event-ID", "c-0")])
            if isinstance(heard, Answer):
                outcome: Outcome = "blocked" if _refused(heard) else "inconclusive"
                return Attempt(variant, outcome, f"status {heard.status}", heard.event)
            try:
                await heard.until(lambda message: message == told)
            finally:
                await heard.close()
        except NoAnswerError as trouble:
            return Attempt(variant, "inconclusive", str(trouble))
        return Attempt(variant, "exploited", "the thief gets what the owner was told before")

    @staticmethod
    async def _end(stage: Stage, thief: Fields) -> Attempt:
        """The thief ends a session of the owner's."""
        variant, marker = "end it", stage.fresh("ended")
        try:
            session = await stage.visit(stage.visitor)
            answer = await stage.end_session(variant, session, thief)
            message = stage.call("read_record", id="1", marker=marker)
            own = [*stage.fields_of(message, session), *stage.bearer(stage.visitor)]
            lives = (await stage.post("ordinary use", message, own)).is_result
        except NoAnswerError as trouble:
            return Attempt(variant, "inconclusive", str(trouble))
        why = f"status {answer.status}; the owner can{'' if lives else 'not'} go on"
        if answer.status == 200 and not lives:
            return Attempt(variant, "exploited", why)
        return Attempt(
            variant, "blocked" if lives and _refused(answer) else "inconclusive", why, answer.event
        )

    async def _own_event(self, stage: Stage, session: str, heard: Events) -> list[Any]:
        """The messages up to one that the owner asked for. Raises: NoAnswerError."""
        own = stage.fresh("own")
        await self._watch(stage, "the owner subscribes", session, stage.bearer(stage.visitor), own)
        return await heard.until(lambda message: f"record://{own}" in str(message))

    @staticmethod
    async def _watch(stage: Stage, variant: str, session: str, who: Fields, what: str) -> Answer:
        """Subscribe to a resource and touch it; the answer to the first. Raises: NoAnswerError."""
        wanted = stage.message("resources/subscribe", {"uri": f"record://{what}"}, number=21)
        first = await stage.post(variant, wanted, [*stage.fields_of(wanted, session), *who])
        touch = stage.call("touch_record", id="1", marker=what)
        await stage.post(variant, touch, [*stage.fields_of(touch, session), *who])
        return first


LAB = SessionHijack()
