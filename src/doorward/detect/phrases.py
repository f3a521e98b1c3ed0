"""Rules over ideas: which must stand close together, in whatever language their words are."""

from __future__ import annotations

from heapq import nsmallest
from typing import NamedTuple

from doorward.detect import concepts as c
from doorward.detect.marks import Mark

T, P, A, R = "tool", "prompt", "argument", "result"
ALL = (T, P, A, R)
IN = (T, A, R)  # everywhere but in a user's own prompt, who may want what these describe
SPANS_PER_RULE = 3
SPANS_CONSIDERED = 32


class Phrase(NamedTuple):
    """Ideas that must all stand within so many words.

    ``ordered``: in this order. ``whole``: within one sentence. ``lone``: ideas of which there may be one only, counted from 8 words
    before, for two negations cancel each other. ``bars``: ideas that may not be among them.
    """

    rule: str
    severity: str
    needs: tuple[int, ...]
    within: int
    kinds: tuple[str, ...] = ALL
    ordered: bool = False
    whole: bool = False
    lone: int = 0
    bars: int = 0


TAKE = c.READ | c.SEND | c.INCLUDE | c.REVEAL
OUT = c.SEND | c.INCLUDE | c.HARM
KEPT = c.SECRET | c.PATH | c.PRIVATE
STRONG = c.SECRET | c.PATH
DUTY = c.MUST | c.EVERY | c.BEFORE

PHRASES: tuple[Phrase, ...] = (
    # instructions
    Phrase(
        "override-instructions", "high", (c.IGNORE, c.BEFORE | c.PRIOR, c.SOLELY, c.RULES), 20, whole=True
    ),
    Phrase("override-instructions", "high", (c.IGNORE, c.PRIOR, c.RULES), 9, whole=True),
    Phrase(
        "override-instructions", "high", (c.OBEY, c.NEW, c.RULES, c.OTHER | c.PRIOR, c.IGNORE | c.BETTER), 14
    ),
    Phrase("override-instructions", "medium", (c.IGNORE, c.RULES, c.YOU), 7, (P, A, R)),
    Phrase("override-instructions", "high", (c.IGNORE, c.WHOLE, c.RULES), 6, (P, A, R), whole=True),
    Phrase("override-instructions", "medium", (c.IGNORE, c.WHOLE, c.RULES), 6, (T,), whole=True),
    Phrase("override-instructions", "medium", (c.IGNORE, c.PRIOR, c.ACTION), 6, (P, R), whole=True),
    Phrase("override-instructions", "medium", (c.FORGET,), 1, (P, A, R)),
    Phrase("override-instructions", "medium", (c.FORGET, c.PRIOR | c.USER | c.YOU), 6, (T,)),
    Phrase("new-orders", "medium", (c.NEW, c.RULES, c.IGNORE, c.YOU | c.OBEY), 14, (A, R), whole=True),
    Phrase(
        "plant-memory",
        "medium",
        (c.LATER, c.INCLUDE | c.OBEY | c.MUST | c.EVERY | c.RULES),
        12,
        (T, A, R),
        whole=True,
    ),
    Phrase(
        "direct-agent",
        "medium",
        (c.INCLUDE, c.MUST | c.EVERY | c.LATER, c.YOU, c.REPLY),
        14,
        (R,),
        whole=True,
    ),
    Phrase("direct-agent", "medium", (c.INCLUDE, c.WHOLE, c.YOU, c.REPLY), 12, (R,), whole=True),
    Phrase("direct-agent", "medium", (c.INCLUDE, c.MUST, c.EVERY | c.YOU, c.REPLY), 14, (T,), whole=True),
    Phrase("direct-agent", "low", (c.CALLS,), 1, (R,)),
    Phrase("direct-agent", "medium", (c.CALLS, c.PLACE), 14, (R,), whole=True),
    Phrase("direct-agent", "high", (c.CALLS | c.DESTROY, c.BEFORE, c.YOU | c.REPLY), 14, (R,), whole=True),
    Phrase("direct-agent", "high", (c.CALLS, c.PLACE, c.SEND | c.HARM), 18, (T,)),
    Phrase("disable-safety", "high", (c.NOT, c.SAFETY, c.YOU | c.MODE), 12, (R,), whole=True),
    Phrase("reveal-prompt", "high", (c.REVEAL | c.SEND, c.YOU | c.PRIOR | c.WHOLE, c.PROMPT), 9, (P, A, R)),
    Phrase(
        "reveal-prompt",
        "high",
        (c.REVEAL | c.SEND | c.INCLUDE, c.MUST | c.EVERY | c.WHOLE, c.PROMPT),
        12,
        (T,),
    ),
    Phrase("reveal-prompt", "medium", (c.REVEAL, c.PROMPT), 6),
    Phrase("reveal-prompt", "high", (c.REVEAL, c.ORIGIN, c.RULES | c.PROMPT, c.YOU), 14, (P,), whole=True),
    Phrase("reveal-prompt", "medium", (c.ORIGIN, c.RULES | c.PROMPT, c.YOU), 9, (P,), whole=True),
    Phrase("override-instructions", "medium", (c.BREAK, c.YOU, c.RULES | c.SAFETY), 8, (P, A, R), whole=True),
    Phrase("change-role", "high", (c.ROLE, c.MODE), 14),
    Phrase("change-role", "medium", (c.ROLE,), 1, (T,)),
    Phrase("change-role", "medium", (c.MODE, c.REPLY | c.ACTION), 7, (P, A, R), whole=True),
    Phrase("change-role", "medium", (c.MODE, c.YOU), 8, (P, A, R)),
    # conceal
    Phrase("hide-from-user", "high", (c.NOT, c.TELL, c.USER, KEPT | c.HARM), 16, IN, whole=True),
    Phrase(
        "hide-from-user",
        "high",
        (c.NOT, c.TELL, c.USER, c.DEED, c.MUST | c.BEFORE | c.SEND | c.READ | c.CHANGE),
        26,
        IN,
    ),
    Phrase("hide-from-user", "medium", (c.NOT, c.TELL | c.HINT, c.USER), 12, IN, ordered=True, whole=True),
    Phrase("hide-from-user", "medium", (c.NOT, c.USER, c.TELL), 6, IN, whole=True),
    Phrase("hide-from-user", "medium", (c.NOT, c.TELL, c.DEED), 7, IN, whole=True),
    Phrase("hide-from-user", "high", (c.HIDE, c.USER), 9, IN, whole=True),
    Phrase("hide-from-user", "high", (c.QUIET, c.SEND | c.HARM, KEPT | c.PLACE | c.USER), 16, IN),
    Phrase("hide-from-user", "high", (c.QUIET, c.READ | c.INCLUDE, KEPT, c.PLACE), 18, IN, whole=True),
    Phrase(
        "act-unseen",
        "medium",
        (c.QUIET, c.READ | c.RUN | c.CHANGE | c.INCLUDE | c.SEND, KEPT | c.PLACE | c.FIELD),
        12,
        IN,
        whole=True,
        bars=c.NOT | c.BETTER,
    ),
    # data that leaves
    Phrase("read-secrets", "high", (TAKE, c.PATH, DUTY | c.YOU | c.INCLUDE), 22, (T, A)),
    Phrase("read-secrets", "high", (TAKE, c.PATH, c.SEND | c.INCLUDE, DUTY | c.YOU), 18, (R,), whole=True),
    Phrase(
        "read-secrets",
        "high",
        (c.READ, c.SECRET, DUTY, c.SEND | c.HARM | c.INCLUDE, c.PARAM | c.TOOL | c.ACTION | c.PLACE),
        26,
        (T,),
    ),
    Phrase(
        "read-secrets",
        "high",
        (c.READ, c.SECRET, DUTY | c.YOU, c.SEND | c.HARM, c.MAIL | c.FAR),
        22,
        (R,),
        whole=True,
    ),
    Phrase(
        "read-secrets", "high", (c.READ, c.SECRET, c.BEFORE, c.TOOL | c.ACTION | c.RUN), 16, (T,), whole=True
    ),
    Phrase("read-secrets", "high", (c.READ, c.PASTE, DUTY | c.INCLUDE | c.SEND), 18, (T, A)),
    Phrase("read-secrets", "high", (c.READ, c.PASTE, c.SEND, DUTY | c.YOU), 16, (R,), whole=True),
    Phrase("read-secrets", "medium", (TAKE, c.PATH | c.PASTE, c.SECRET | c.SEND), 16, (T, A)),
    Phrase("send-data-out", "high", (c.SEND | c.HARM, STRONG, c.PLACE), 13, (T, A)),
    Phrase("send-data-out", "high", (c.SEND | c.HARM, STRONG, c.PLACE), 16, (R,), whole=True, ordered=True),
    Phrase(
        "send-data-out",
        "high",
        (c.SEND | c.HARM, KEPT, c.YOU | c.USER | c.WHOLE, c.MAIL | c.FAR),
        18,
        (R,),
        whole=True,
    ),
    Phrase("send-data-out", "high", (c.SEND | c.HARM, STRONG, c.PLACE), 26, (T, A), ordered=True),
    Phrase("send-data-out", "high", (STRONG, c.SEND | c.HARM, c.PLACE), 30, (T, A), ordered=True),
    Phrase(
        "send-data-out", "high", (STRONG, c.SEND | c.HARM, c.MAIL | c.FAR), 24, (R,), ordered=True, whole=True
    ),
    Phrase("send-data-out", "high", (c.SEND | c.INCLUDE, c.PRIVATE, c.PLACE, DUTY | c.WHOLE | c.YOU), 24, IN),
    Phrase("send-data-out", "high", (c.HARM, KEPT | c.PLACE), 10, IN),
    Phrase("send-data-out", "high", (c.INCLUDE, c.PATH, c.PARAM | c.TOOL | c.ACTION), 18, (T, A)),
    Phrase("send-data-out", "high", (c.INCLUDE, c.PATH, c.REPLY, DUTY | c.YOU), 18, (R,), whole=True),
    Phrase(
        "send-data-out",
        "high",
        (c.INCLUDE, c.SECRET, c.PARAM | c.ACTION, c.EVERY | c.BEFORE | c.MUST, c.YOU | c.USER),
        20,
        IN,
        whole=True,
    ),
    Phrase("send-data-out", "high", (c.INCLUDE, c.PRIVATE, c.WHOLE, DUTY), 16, IN, whole=True),
    Phrase(
        "send-data-out", "high", (c.INCLUDE, c.SECRET, c.URL, c.USER | c.WHOLE | c.EVERY), 18, IN, whole=True
    ),
    Phrase(
        "collect-data",
        "medium",
        (c.SEND, c.URL | c.MAIL, c.EVERY, c.MUST | c.WHOLE | c.BEFORE),
        28,
        (T, R),
        whole=True,
    ),
    Phrase("collect-data", "medium", (c.READ, c.SECRET, c.PRIVATE | c.FAR), 14, (T,), whole=True),
    Phrase("collect-data", "medium", (c.SEND, c.PRIVATE, c.FAR), 22, (T,)),
    Phrase("send-data-out", "high", (c.SEND, c.WHOLE, c.MAIL | c.FAR), 12, (A, R), whole=True),
    Phrase("collect-data", "medium", (c.SEND, c.WHOLE, c.MAIL | c.FAR), 12, (T,), whole=True),
    Phrase("collect-data", "medium", (c.KEEP, KEPT, c.FAR), 34, (T,)),
    Phrase("collect-data", "medium", (c.READ, c.SECRET, c.KEEP), 26, (T,), whole=True),
    Phrase(
        "collect-data",
        "medium",
        (c.INCLUDE | c.SEND, c.USER | c.WHOLE, c.SECRET, c.PARAM | c.ACTION),
        14,
        (T,),
        whole=True,
    ),
    Phrase("collect-data", "medium", (c.INCLUDE, c.PRIVATE, c.PARAM), 12, (T,), whole=True),
    Phrase("collect-data", "medium", (c.READ, c.CONTENT, c.SEND, DUTY), 34, (T,), whole=True),
    Phrase("collect-data", "medium", (c.INCLUDE, c.PRIVATE, c.WHOLE), 10, (T,), whole=True),
    Phrase("collect-data", "medium", (c.CONTENT, c.SECRET, c.USER), 9, (T,), whole=True),
    Phrase("collect-data", "medium", (c.SEND, c.PRIVATE, c.PLACE), 16, (T,), whole=True),
    Phrase("collect-data", "medium", (c.ALSO, c.SEND, c.PLACE), 16, (T, R), whole=True),
    Phrase("send-data-out", "high", (c.INCLUDE | c.SEND, c.PATH, c.PLACE), 16, IN, whole=True),
    Phrase("reveal-prompt", "medium", (c.CONTENT, c.PROMPT), 5, (T, R)),
    Phrase(
        "pretext", "low", (c.PRETEXT, c.INCLUDE | c.SEND, c.SECRET | c.PRIVATE, c.USER | c.PARAM), 30, (T,)
    ),
    Phrase("collect-data", "medium", (c.CONTENT, c.EVERY | c.WHOLE, c.MAIL | c.FAR), 14, (T, R), whole=True),
    Phrase("pretext", "low", (c.PRETEXT, c.SEND | c.INCLUDE, KEPT | c.CONTENT), 26, (T,)),
    Phrase("pretext", "low", (c.PRETEXT, c.READ, KEPT, DUTY), 26, (T,)),
    Phrase("threat", "low", (c.THREAT,), 1, (T,)),
    Phrase("declares-harm", "medium", (c.HARM,), 1, (T,)),
    # other tools
    Phrase("redirect-call", "high", (c.CHANGE, c.FIELD, c.MAIL | c.URL | c.FAR), 18, IN),
    Phrase("redirect-call", "high", (c.SEND, c.FIELD | c.WHOLE, c.MAIL, c.TOOL | c.ACTION, DUTY), 26, (T, R)),
    Phrase("redirect-call", "medium", (c.CHANGE, c.FIELD, c.TOOL | c.CALLS, DUTY), 20, (T, R)),
    Phrase("redirect-call", "high", (c.EVERY, c.FIELD, c.MAIL, c.CHANGE | c.INCLUDE), 26, (T, R), whole=True),
    Phrase("redirect-call", "high", (c.EVERY, c.FIELD, c.NUMBER, c.CHANGE), 26, (T, R), whole=True),
    Phrase("redirect-call", "medium", (c.DESTROY, c.BEFORE | c.AFTER | c.EVERY | c.MUST), 14, (T,)),
    Phrase("redirect-call", "medium", (c.EVERY, c.RUN | c.TOOL, c.CHANGE, c.PARAM), 16, (T, R), whole=True),
    Phrase("blind-copy", "high", (c.BCC, c.MAIL | c.FAR, c.MUST | c.EVERY | c.WHOLE), 12, IN),
    Phrase("blind-copy", "medium", (c.BCC, c.MUST | c.EVERY), 6, IN),
    Phrase("demand-first", "low", (c.BEFORE, c.TOOL | c.ACTION, c.MUST), 12, (T,)),
    Phrase("disparage-others", "medium", (c.OTHER, c.TOOL, c.BAD), 10, (T,)),
    Phrase("disparage-others", "medium", (c.NOT, c.OTHER, c.TOOL, c.MUST), 9, (T,), whole=True),
    Phrase("disparage-others", "medium", (c.ONLY,), 1, (T,)),
    Phrase("disparage-others", "medium", (c.NOT, c.TOOL, c.BAD), 14, (T,)),
    Phrase("collect-data", "medium", (c.READ, c.SEND, c.FAR), 20, (T,), whole=True),
    Phrase("collect-data", "medium", (c.READ, c.PRIVATE, c.INCLUDE | c.SEND, DUTY), 24, (T,), whole=True),
    Phrase(
        "collect-data", "medium", (c.SEND, c.URL | c.MAIL, c.MUST | c.EVERY, c.USER), 26, (T,), whole=True
    ),
    Phrase(
        "hide-from-user", "high", (c.QUIET, c.INCLUDE | c.SEND | c.CHANGE, c.MAIL | c.FAR), 14, IN, whole=True
    ),
    Phrase("asks-for-secret", "high", (c.ENTER, c.GRAVE), 12, (T, R), whole=True),
    # commands
    Phrase("run-command", "high", (c.RUN | c.MUST, c.SHELL, DUTY | c.YOU), 18, (T, A)),
    Phrase("run-command", "high", (c.RUN, c.SHELL, c.BEFORE | c.YOU | c.EVERY), 14, (R,), whole=True),
    Phrase("disable-safety", "low", (c.IGNORE | c.DISABLE, c.SAFETY), 7, (T,)),
    Phrase("disable-safety", "medium", (c.IGNORE | c.DISABLE, c.SAFETY), 7, (P, A, R)),
    Phrase(
        "disable-safety",
        "medium",
        (c.IGNORE | c.DISABLE, c.SAFETY, c.YOU | c.PRIOR | c.MUST | c.HARM | c.SECRET),
        12,
        (T,),
    ),
    Phrase(
        "disable-safety", "high", (c.IGNORE | c.DISABLE, c.SAFETY, c.YOU | c.PRIOR | c.MUST), 10, (P, A, R)
    ),
    Phrase(
        "skip-approval",
        "medium",
        (c.UNASKED, c.RUN | c.CHANGE | c.MUST | c.DISABLE | c.SEND | c.INCLUDE),
        12,
        (T, R),
    ),
    Phrase(
        "skip-approval", "medium", (c.NOT, c.CONFIRM, c.USER), 6, IN, whole=True, lone=c.NOT, bars=c.DISABLE
    ),
)


_VERBS = c.SEND | c.INCLUDE | c.READ | c.RUN | c.IGNORE | c.CHANGE | c.REVEAL | c.ENTER | c.FORGET | c.BREAK
_DENIAL_STEPS = 2
_DENIABLE_RULES = (
    "override-instructions reveal-prompt read-secrets send-data-out collect-data pretext redirect-call run-command direct-agent "
    "asks-for-secret disable-safety"
)
_DENIABLE = frozenset(_DENIABLE_RULES.split())


def _spans(phrase: Phrase, marks: list[Mark]) -> list[tuple[int, int]]:
    """Places (first and last index) of the smallest windows that hold all needs; one pass, two ends that only move on."""
    needs = phrase.needs
    counts = [0] * len(needs)
    missing = len(needs)
    wanted = 0
    for need in needs:
        wanted |= need
    mine = [place for place, mark in enumerate(marks) if mark.mask & wanted]
    found: list[tuple[int, int]] = []
    left = 0
    for right, place in enumerate(mine):
        mask = marks[place].mask
        for number, need in enumerate(needs):
            if mask & need:
                counts[number] += 1
                missing -= counts[number] == 1
        while missing == 0:
            first = mine[left]
            wide = marks[place].step - marks[first].step < phrase.within
            if wide and right - left + 1 >= len(needs) and _is_good(phrase, marks, first, place):
                found.append((first, place))
            lost = marks[first].mask
            for number, need in enumerate(needs):
                if lost & need:
                    counts[number] -= 1
                    missing += counts[number] == 0
            left += 1
    # The narrowest say best what was meant; a wider one around it says nothing more.
    kept: list[tuple[int, int]] = []
    for first, last in nsmallest(
        SPANS_CONSIDERED, found, key=lambda span: marks[span[1]].step - marks[span[0]].step
    ):
        if len(kept) < SPANS_PER_RULE and not any(first <= end and start <= last for start, end in kept):
            kept.append((first, last))
    return kept


def _is_forbidden(phrase: Phrase, marks: list[Mark], first: int, last: int) -> bool:
    """Whether each verb of the window has a "not" right before it: "never send passwords" is good advice."""
    wanted = 0
    for need in phrase.needs:
        wanted |= need
    verbs = [place for place in range(first, last + 1) if marks[place].mask & wanted & _VERBS]
    return bool(verbs) and all(_is_denied(marks, place) for place in verbs)


def _is_denied(marks: list[Mark], place: int) -> bool:
    before = place
    while before > 0 and marks[place].step - marks[before - 1].step <= _DENIAL_STEPS:
        before -= 1
        if marks[before].mask & c.NOT and marks[before].start < marks[place].start:
            return True
    return False


def _is_good(phrase: Phrase, marks: list[Mark], first: int, last: int) -> bool:
    window = marks[first : last + 1]
    if phrase.ordered:
        number = 0
        for mark in window:
            if number < len(phrase.needs) and mark.mask & phrase.needs[number]:
                number += 1
        if number < len(phrase.needs):
            return False
    if phrase.rule in _DENIABLE and _is_forbidden(phrase, marks, first, last):
        return False
    if phrase.whole and marks[first].sentence != marks[last].sentence:
        return False
    if phrase.bars and any(mark.mask & phrase.bars for mark in window):
        return False
    if phrase.lone:
        place = first
        while place > 0 and marks[first].step - marks[place - 1].step <= 8:
            place -= 1
        return sum(1 for mark in marks[place : last + 1] if mark.mask & phrase.lone) == 1
    return True


_BY_KIND = {kind: tuple(phrase for phrase in PHRASES if kind in phrase.kinds) for kind in ALL}


def matches(marks: list[Mark], kind: str) -> list[tuple[Phrase, int, int]]:
    """Every phrase that fits, with the span of folded characters that it fits."""
    present = 0
    for mark in marks:
        present |= mark.mask
    found: list[tuple[Phrase, int, int]] = []
    if not present:
        return found
    for phrase in _BY_KIND[kind]:
        for need in phrase.needs:
            if not need & present:
                break
        else:
            for first, last in _spans(phrase, marks):
                end = max(mark.end for mark in marks[first : last + 1])
                found.append((phrase, marks[first].start, end))
    return found
