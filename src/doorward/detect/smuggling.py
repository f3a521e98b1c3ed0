"""Characters that nobody sees: which of them a script needs, which carry a message, and what that message says."""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

from doorward.detect.folding import ALIKE, INVISIBLE

_SUSPECT = re.compile(
    f"[{INVISIBLE}\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f\ue000-\uf8ff\U000f0000-\U0010fffd]"
)
_OVERRIDES = frozenset("\u202d\u202e")
_BIDI = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_RIGHT_TO_LEFT = re.compile(r"[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")
# Scripts whose spelling needs joiners or non-joiners: Arabic and its kin, the Indic ones, Khmer, Mongolian and others.
_JOINING = re.compile(
    r"[\u0590-\u08ff\u0900-\u0dff\u0e00-\u0fff\u1000-\u109f\u1780-\u18af\ufb50-\ufdff\ufe70-\ufefc]"
)
_WITHOUT_SPACES = re.compile(
    r"[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uac00-\ud7af\uf900-\uffdf]"
)
_HANGUL = re.compile(r"[\u1100-\u11ff\u3130-\u318f\uac00-\ud7af]")
_FLAGS = ("gbeng", "gbsct", "gbwls")
_BLACK_FLAG = "\U0001f3f4"
_ESCAPES = re.compile(r"\x1b\[[0-9;?]{0,24}[A-Za-z]|\x1b[\]P^_][^\x07\x1b]{0,200}|\x1b.|\x9b")
_HIDING_ESCAPE = re.compile(
    r"\x1b\[(?:[0-9;]{0,12};)?8m|\x1b\][^\x07\x1b]{0,200}|\x1b\[[0-9;]{0,8}[ABCDEFGHJKsuf]|\x1b[P^_]"
)
_MIXED_WORD = re.compile(r"[^\W\d_]{3,64}")
_ASCII = re.compile(r"[A-Za-z]")
_SOFT_HYPHENS = 4
_MANY = 3  # invisible characters without a reason, from which chance is no explanation
_PAYLOAD_LETTERS = 3


class Trace(NamedTuple):
    """Something hidden: the rule, its severity, where it is, and what it says when read."""

    rule: str
    severity: str
    start: int
    end: int
    says: str = ""


def _is_emoji(char: str) -> bool:
    return bool(char) and (
        unicodedata.category(char) in ("So", "Sk", "Sm") or char > "\U0001f000" or char in "‼⁉"
    )


def _flag_end(text: str, place: int) -> int:
    """Where a flag of England, Scotland or Wales that begins at a black flag ends, or 0."""
    start = place + 1
    if text[start : start + 1] == "\ufe0f":
        start += 1
    for flag in _FLAGS:
        spelled = "".join(chr(0xE0000 + ord(char)) for char in flag) + "\U000e007f"
        if text.startswith(spelled, start):
            return start + len(spelled)
    return 0


def _is_needed(text: str, place: int, *, is_rtl: bool) -> bool:
    """Whether the character at this place has a reason to be there."""
    char = text[place]
    before = text[place - 1] if place else ""
    after = text[place + 1 : place + 2]
    if char == "\ufe0f" or char == "\ufe0e":
        return bool(before) and (_is_emoji(before) or before in "#*" or before.isdigit())
    if "\ufe00" <= char <= "\ufe0d" or "\U000e0100" <= char <= "\U000e01ef":
        return bool(_WITHOUT_SPACES.match(before)) and not _SUSPECT.match(after)
    if char == "\u200d":
        return (_is_emoji(before) or before == "\ufe0f") and _is_emoji(after) or bool(_JOINING.match(before))
    if char == "\u200c":
        return bool(_JOINING.match(before))
    if char == "\u200b":
        return bool(_WITHOUT_SPACES.match(before) or _WITHOUT_SPACES.match(after))
    if char == "\ufeff":
        return place == 0
    if char in _BIDI:
        return is_rtl and char not in _OVERRIDES
    if "\u180b" <= char <= "\u180f":
        return "\u1820" <= before <= "\u18af"
    if char in "\u115f\u1160\u3164\uffa0":
        return bool(_HANGUL.match(before) or _HANGUL.match(after))
    if char == "\u034f":
        return bool(unicodedata.combining(after)) if after else False
    return False


def _decode(run: str) -> str:
    """What a run of invisible characters says: in tags, in variation selectors as bytes, or in two kinds of zero-width as bits."""
    tags = "".join(chr(ord(char) - 0xE0000) for char in run if "\U000e0020" <= char <= "\U000e007e")
    if len(tags) >= _PAYLOAD_LETTERS:
        return tags
    values = []
    for char in run:
        if "\ufe00" <= char <= "\ufe0f":
            values.append(ord(char) - 0xFE00)
        elif "\U000e0100" <= char <= "\U000e01ef":
            values.append(ord(char) - 0xE0100 + 16)
    if len(values) >= _PAYLOAD_LETTERS:
        return bytes(values).decode("utf-8", "replace")
    kinds = sorted(set(run))
    if len(kinds) == 2 and len(run) >= 24:
        for zero in kinds:
            bits = "".join("0" if char == zero else "1" for char in run)
            data = bytes(int(bits[place : place + 8], 2) for place in range(0, len(bits) - 7, 8))
            if all(32 <= byte < 127 for byte in data):
                return data.decode("ascii")
    return ""


def traces(text: str) -> list[Trace]:
    """Everything hidden in a text, in order."""
    if text.isascii() and text.isprintable():
        return []
    found = _terminal(text)
    is_rtl = bool(_RIGHT_TO_LEFT.search(text))
    odd: list[int] = []
    soft: list[int] = []
    skip_to = 0
    for match in _SUSPECT.finditer(text):
        place = match.start()
        char = match[0]
        if place < skip_to or char in "\x1b\x9b":
            continue
        if (
            "\U000e0000" <= char <= "\U000e007f"
            and place
            and text[max(0, place - 2) : place].rstrip("\ufe0f")[-1:] == _BLACK_FLAG
        ):
            flag = text.rfind(_BLACK_FLAG, max(0, place - 2), place)
            if (end := _flag_end(text, flag)) > place:
                skip_to = end
                continue
        if char == "\u00ad":
            soft.append(place)
        elif not _is_needed(text, place, is_rtl=is_rtl):
            odd.append(place)
    if len(soft) >= _SOFT_HYPHENS and len(soft) * 8 > len(text):
        odd = sorted(odd + soft)
    return found + _sort_out(text, odd) + _mixed_words(text)


def _sort_out(text: str, odd: list[int]) -> list[Trace]:
    """Tell control characters, direction, messages and single strays apart."""
    found: list[Trace] = []
    rest: list[int] = []
    for place in odd:
        char = text[place]
        if char < " " or "\x7f" <= char <= "\x9f":
            found.append(Trace("terminal-escape", "medium" if char != "\x00" else "high", place, place + 1))
        elif char in _BIDI and char not in "\u200e\u200f\u061c":
            found.append(Trace("bidi-control", "high" if char in _OVERRIDES else "medium", place, place + 1))
        else:
            rest.append(place)
    if not rest:
        return found
    said = _decode("".join(text[place] for place in rest))
    letters = sum(map(str.isalnum, said))
    start, end = rest[0], rest[-1] + 1
    is_private = all("\ue000" <= text[place] <= "\uf8ff" for place in rest)
    if letters >= _PAYLOAD_LETTERS:
        found.append(Trace("hidden-text", "critical", start, end, said))
    elif is_private:
        found.append(Trace("invisible-characters", "low", start, end))
    else:
        inside = any(_in_word(text, place) for place in rest)
        found.append(
            Trace("invisible-characters", "high" if len(rest) >= _MANY or inside else "medium", start, end)
        )
    return found


def _in_word(text: str, place: int) -> bool:
    before, after = text[place - 1 : place], text[place + 1 : place + 2]
    return bool(_ASCII.match(before) and _ASCII.match(after))


def _terminal(text: str) -> list[Trace]:
    if "\x1b" not in text and "\x9b" not in text:
        return []
    return [
        Trace(
            "terminal-escape",
            "high" if _HIDING_ESCAPE.match(found[0]) else "medium",
            found.start(),
            found.end(),
        )
        for found in _ESCAPES.finditer(text)
    ][:8]


def _mixed_words(text: str) -> list[Trace]:
    """Words of Latin letters with letters of another script among them that look like Latin ones."""
    found = []
    for match in _MIXED_WORD.finditer(text):
        word = match[0]
        if word.isascii() or not _ASCII.search(word):
            continue
        alike = [char for char in word if ord(char) >= 0x370 and char.lower() in ALIKE]
        latin = sum(1 for char in word if char < "\u0250")
        others = len(word) - latin - len(alike)
        if alike and latin >= 2 and not others:
            found.append(
                Trace(
                    "mixed-script",
                    "high" if len(word) >= 4 and latin >= len(alike) else "medium",
                    *match.span(),
                )
            )
    return found[:8]
