"""Run the controls over an exchange: in order, without waiting where nothing waits, and closed on every failure."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from inspect import isawaitable
from typing import Any

import msgspec

from doorward.base.errors import CallerError
from doorward.controls.control import Call, Claim, Control, Facts, Head, Hold, Mode, Note, Refuse, Rewrite
from doorward.identity.principal import Principal
from doorward.protocol import codes
from doorward.protocol.envelope import message_of
from doorward.protocol.message import Message

_log = logging.getLogger("doorward.pipeline")
_REWRITES_COUNT = 8  # a request that is rewritten more often than this is refused: two controls disagree

Spawn = Callable[[Any], None]  # run a coroutine in the worker's task group


class Ruling(msgspec.Struct, frozen=True):
    """A refusal and the slug of the control that gave it."""

    slug: str
    refuse: Refuse
    crashed: bool = False  # the control did not decide: it raised, or answered what it may not


class Placed(msgspec.Struct, frozen=True):
    """A control and the mode in which it runs."""

    control: Control
    mode: Mode


def _is_overridden(control: Control, hook: str) -> bool:
    return getattr(type(control), hook) is not getattr(Control, hook)


def _crashed(slug: str, error: BaseException) -> Ruling:
    # SECURITY: a control that raises refuses; nothing turns this into a pass (tests/unit/gateway/test_pipeline.py).
    _log.error("control crashed", extra={"control": slug, "error": type(error).__name__}, exc_info=error)
    return Ruling(
        slug,
        Refuse(
            reason=f"control crashed: {type(error).__name__}",
            tell="A security control could not decide, so the call is refused.",
            help="Try again later; tell the operator the event id if it persists.",
            code=codes.POLICY,
        ),
        crashed=True,
    )


class Pipeline:
    """An ordered list of controls, sliced by hook so that hooks which nobody overrides cost nothing."""

    def __init__(self, placed: Sequence[Placed], spawn: Spawn) -> None:
        self.placed = tuple(placed)
        self._spawn = spawn
        active = [one for one in placed if one.mode != "off"]
        self._head = self._slice(active, "head")
        self._head_hooks: dict[tuple[frozenset[str], bool], list[tuple[str, Any, bool]]] = {}
        self._request = self._slice(active, "request")
        self._request_hooks = tuple(hook for _, hook, _ in self._request)
        self._listing = self._slice(active, "listing")
        self._reply = self._slice(active, "reply")
        self._notice = self._slice(active, "notice")
        self._claim = self._slice(active, "claim")
        self._settled = [one.control.settled for one in active if _is_overridden(one.control, "settled")]

    @staticmethod
    def _slice(active: Sequence[Placed], hook: str) -> list[tuple[str, Any, bool]]:
        return [
            (one.control.slug, getattr(one.control, hook), one.mode == "report")
            for one in active
            if _is_overridden(one.control, hook)
        ]

    def judge_head(self, head: Head, slugs: frozenset[str], *, inside: bool) -> Ruling | None:
        """Run the head hooks of the controls named in ``slugs`` (``inside``) or of all others."""
        chosen = self._head_hooks.get((slugs, inside))
        if chosen is None:
            chosen = [one for one in self._head if (one[0] in slugs) is inside]
            self._head_hooks[(slugs, inside)] = chosen
        for slug, hook, report in chosen:
            try:
                verdict = hook(head)
            except Exception as error:  # noqa: BLE001 - a crash refuses
                return _crashed(slug, error)
            if verdict is None:
                continue
            if isinstance(verdict, Refuse):
                if report:
                    head.notes += (f"{slug} would refuse: {verdict.reason}",)
                    continue
                return Ruling(slug, verdict)
            if isawaitable(verdict):
                verdict.close()  # type: ignore[attr-defined]
                return _crashed(slug, TypeError("a head hook may not wait"))
        return None

    def judge_request(self, call: Call, then: Callable[[Ruling | None], None]) -> None:
        """Run the request hooks; ``then`` gets the refusal or None, at once unless a control waits."""
        seen: Facts = {}
        index = 0
        try:
            for hook in self._request_hooks:
                verdict = hook(call, seen)
                if verdict is not None:
                    break
                index += 1
            else:
                verdict = None
        except Exception as error:  # noqa: BLE001 - a crash refuses
            return then(_crashed(self._request[index][0], error))
        if verdict is None:
            return then(None)
        return self._advance(call, seen, index, 0, then, verdict)

    def _advance(
        self,
        call: Call,
        seen: Facts,
        index: int,
        rewrites: int,
        then: Callable[[Ruling | None], None],
        verdict: Any = None,
    ) -> None:
        """Go on at ``index``, with the verdict of that hook where it was given already."""
        hooks = self._request
        while index < len(hooks):
            slug, hook, report = hooks[index]
            if verdict is None:
                try:
                    verdict = hook(call, seen)
                except Exception as error:  # noqa: BLE001 - a crash refuses
                    return then(_crashed(slug, error))
            if verdict is not None:
                if isawaitable(verdict):
                    return self._spawn(self._wait(verdict, call, seen, index, rewrites, then))
                ruling, index, rewrites = self._weigh(verdict, slug, call, index, rewrites, report=report)
                if ruling is not None:
                    return then(ruling)
                verdict = None
                continue
            index += 1
        return then(None)

    async def _wait(
        self,
        verdict: Any,
        call: Call,
        seen: Facts,
        index: int,
        rewrites: int,
        then: Callable[[Ruling | None], None],
    ) -> None:
        slug, _, report = self._request[index]
        try:
            settled = await verdict
        except Exception as error:  # noqa: BLE001 - a crash refuses
            return then(_crashed(slug, error))
        ruling = None
        if settled is None:
            index += 1
        else:
            ruling, index, rewrites = self._weigh(settled, slug, call, index, rewrites, report=report)
        if ruling is not None:
            return then(ruling)
        return self._advance(call, seen, index, rewrites, then)

    def _weigh(
        self, verdict: Any, slug: str, call: Call, index: int, rewrites: int, *, report: bool
    ) -> tuple[Ruling | None, int, int]:
        """Turn one verdict into (refusal or None, next index, rewrites so far)."""
        match verdict:
            case Note():
                call.notes.append(f"{slug}: {verdict.reason}")
                return None, index + 1, rewrites
            case Refuse() | Hold() | Rewrite() if report:
                call.notes.append(f"{slug} would {type(verdict).__name__.lower()}: {verdict.reason}")
                return None, index + 1, rewrites
            case Refuse():
                return Ruling(slug, verdict), index, rewrites
            case Hold():
                held = Refuse(reason=verdict.reason, tell=verdict.tell, code=codes.APPROVAL)
                return Ruling(slug, held), index, rewrites
            case Rewrite() if rewrites < _REWRITES_COUNT:
                try:
                    call.message = message_of(verdict.value)
                except CallerError as error:
                    return _crashed(slug, error), index, rewrites
                call.notes.append(f"{slug} rewrote: {verdict.reason}")
                return None, 0, rewrites + 1  # shape, policy and argument controls see the new message
            case _:
                return (
                    _crashed(slug, TypeError(f"unusable verdict {type(verdict).__name__}")),
                    index,
                    rewrites,
                )

    def judge_listing(self, call: Call, items: list[dict[str, Any]], key: str) -> Ruling | None:
        """Let controls judge and filter a list result in place."""
        for slug, hook, report in self._listing:
            ruling = self._plain(slug, hook, report, call, call, items, key)
            if ruling is not None:
                return ruling
        return None

    def judge_reply(self, call: Call, reply: Message) -> Ruling | None:
        """Let controls judge the final response."""
        for slug, hook, report in self._reply:
            try:
                verdict = hook(call, reply)
            except Exception as error:  # noqa: BLE001 - a crash refuses
                return _crashed(slug, error)
            if verdict is not None:
                ruling = self._weigh_plain(slug, verdict, report, call)
                if ruling is not None:
                    return ruling
        return None

    def judge_notice(self, notice: Message, server: str, capabilities: dict[str, Any]) -> Ruling | None:
        """Let controls judge what a server sends on its own."""
        for slug, hook, report in self._notice:
            ruling = self._plain(slug, hook, report, None, notice, server, capabilities)
            if ruling is not None:
                return ruling
        return None

    def judge_claim(self, call: Call | None, caller: Principal, claim: Claim) -> Ruling | None:
        """Let controls judge a claim that does not hold; without an objection it counts as if it held."""
        for slug, hook, report in self._claim:
            ruling = self._plain(slug, hook, report, call, caller, claim)
            if ruling is not None:
                return ruling
        return None

    def _plain(self, slug: str, hook: Any, report: bool, call: Call | None, *arguments: Any) -> Ruling | None:  # noqa: FBT001
        try:
            verdict = hook(*arguments)
        except Exception as error:  # noqa: BLE001 - a crash refuses
            return _crashed(slug, error)
        return self._weigh_plain(slug, verdict, report, call)

    @staticmethod
    def _weigh_plain(slug: str, verdict: Any, report: bool, call: Call | None) -> Ruling | None:  # noqa: FBT001
        match verdict:
            case None:
                return None
            case Note():
                if call is not None:
                    call.notes.append(f"{slug}: {verdict.reason}")
                return None
            case Refuse() if report:
                if call is not None:
                    call.notes.append(f"{slug} would refuse: {verdict.reason}")
                else:
                    _log.warning("would refuse", extra={"control": slug, "reason": verdict.reason})
                return None
            case Refuse():
                return Ruling(slug, verdict)
            case _:
                if isawaitable(verdict):
                    verdict.close()  # type: ignore[attr-defined]
                return _crashed(slug, TypeError(f"unusable verdict {type(verdict).__name__}"))

    def settle(self, call: Call, outcome: str) -> None:
        """Tell every control that the exchange is over."""
        for settled in self._settled:
            try:
                settled(call, outcome)
            except Exception:  # noqa: BLE001 - the exchange is over; nothing can be refused any more
                _log.exception("control failed after the exchange")
