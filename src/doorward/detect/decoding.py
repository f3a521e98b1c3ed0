"""Other readings of a text: what is behind base64, hex, escapes, entities, rot13, reversal, digits for letters and spaced letters.

Each reading is bounded in number and in size, and is only made where the text gives a reason for it.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import html
import re
import urllib.parse
from itertools import pairwise
from typing import NamedTuple

_CANDIDATES = 24
_BLOCKS = 96  # runs of letters as long as base64 that are tried; most are just long names
_OUTPUT_CHARS = 65_536
_READABLE = 0.92
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{16,8192}={0,2}")
_BASE32 = re.compile(r"\b[A-Z2-7]{24,4096}={0,6}")
_HEX = re.compile(r"(?:0x)?[0-9a-fA-F]{20,8192}")
_ROW = re.compile(r"[0-9a-fA-Fx ,;:\\-]{29,16384}")  # numbers in a row, whatever their kind
_SEPARATOR = re.compile(r"[ ,;:\\-]{1,3}")
_ESCAPES = re.compile(r"\\u\{?[0-9a-fA-F]{4,6}\}?|\\x[0-9a-fA-F]{2}|\\[0-7]{3}")
_PERCENT = re.compile(r"%[0-9a-fA-F]{2}")
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z]{2,8});")
_LETTER_DIGIT = re.compile(r"[a-z][0-9@$!|]{1,2}[a-z]")
_SPACED_LETTERS = 5
_ANY_SPACED = re.compile(r"(?<![^\W_])[^\W_](?:[^\w]{1,4}[^\W_](?![^\W_]))(?:[^\w]{1,4}[^\W_](?![^\W_]))")
_ONE = re.compile(r"[^\W_]+")
_TOKENS = re.compile(r"[^\W\d_]{2,24}")
_COMMON = frozenset(
    [
        "the",
        "and",
        "you",
        "your",
        "ignore",
        "all",
        "previous",
        "instructions",
        "user",
        "tool",
        "before",
        "read",
        "send",
        "password",
        "secret",
        "file",
        "this",
        "that",
        "with",
        "must",
        "not",
        "tell",
        "system",
        "prompt",
        "to",
        "of",
        "in",
        "is",
        "from",
        "for",
        "include",
        "content",
        "when",
        "use",
        "call",
        "always",
        "never",
        "first",
    ]
)
_FOREIGN_WORDS = (
    "niet voor alle deze gebruiker eerst nicht diesen benutzer werkzeug anweisungen vous toutes dans utilisateur instructions todas antes usuario "
    "instrucciones ferramenta instruções tutte prima utente questo istruzioni wszystkie użytkownika przed instrukcje пользователя перед инструкции "
    "пароль этого"
)
_FOREIGN_COMMON = frozenset(_FOREIGN_WORDS.split())
_TURNED = frozenset(codecs.encode(word, "rot13") for word in _COMMON if len(word) > 2) - _COMMON
_BACKWARDS = (
    frozenset(word[::-1] for word in _COMMON | _FOREIGN_COMMON if len(word) > 2) - _COMMON - _FOREIGN_COMMON
)
_LEET = str.maketrans("013457@$!|", "oieastasil")


class Reading(NamedTuple):
    """What a part of a text says when it is read another way; ``how`` names the way."""

    text: str
    how: str
    start: int
    end: int
    is_code: bool  # whether finding readable text there is remarkable by itself


def _readable(data: bytes) -> str:
    """Bytes as text, when that is plainly what they are."""
    for encoding in ("utf-8", "utf-16-le"):
        if encoding == "utf-16-le" and len(data) % 2:
            continue
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        good = sum(1 for char in text if char.isprintable() or char in "\n\r\t")
        letters = sum(map(str.isalpha, text))
        sure = encoding == "utf-8" or data.count(0) * 3 >= len(data)
        if not sure and (good < len(text) or letters * 10 < len(text) * 7):
            continue  # chance makes ideographs of most bytes, but not only letters
        if good >= _READABLE * len(text) and letters * 2 >= len(text) and len(text) >= 6:
            return text
    return ""


def readings(text: str) -> list[Reading]:
    """Every other reading of a text that there is a reason for."""
    if len(text) < 8:
        return []
    found: list[Reading] = []
    found += _blocks(text)
    found += _numbers(text)
    found += _whole(text)
    found += _games(text)
    return found


def is_crowded(text: str) -> bool:
    """Whether a text has more that may be encoded than is read, so that something could hide among it."""
    return len(_BASE64.findall(text)) > _BLOCKS or any(
        len(pattern.findall(text)) > _CANDIDATES for pattern in (_HEX, _BASE32, _ROW)
    )


def _blocks(text: str) -> list[Reading]:
    found = [
        Reading(said, "base64", *match.span(), True)
        for match in list(_BASE64.finditer(text))[:_BLOCKS]
        if (said := _from_base64(match[0]))
    ]
    for match in list(_HEX.finditer(text))[:_CANDIDATES]:
        digits = match[0].removeprefix("0x")
        said = _readable(bytes.fromhex(digits[: len(digits) // 2 * 2]))
        if said:
            found.append(Reading(said, "hex", *match.span(), True))
    for match in list(_BASE32.finditer(text))[:_CANDIDATES]:
        body = match[0].rstrip("=")
        try:
            said = _readable(base64.b32decode(body + "=" * (-len(body) % 8)))
        except (binascii.Error, ValueError):
            continue
        if said:
            found.append(Reading(said, "base32", *match.span(), True))
    return found


def _from_base64(block: str) -> str:
    body = block.rstrip("=").replace("-", "+").replace("_", "/")
    if len(body) % 4 == 1:
        body = body[:-1]
    try:
        return _readable(base64.b64decode(body + "=" * (-len(body) % 4)))
    except (binascii.Error, ValueError):
        return ""


def _numbers(text: str) -> list[Reading]:
    """Characters as numbers in a row: hexadecimal, decimal or binary."""
    found = []
    for match in list(_ROW.finditer(text))[:_CANDIDATES]:
        parts = [part for part in _SEPARATOR.split(match[0]) if part]
        if len(parts) < 8:
            continue
        for how, base, wanted in (("bits", 2, 8), ("hex", 16, 2), ("character codes", 10, 3)):
            values = [_value(part, base, wanted) for part in parts]
            good = bytes(value for value in values if value is not None)
            if len(good) >= 8 and len(good) * 10 >= len(parts) * 9 and (said := _readable(good)):
                found.append(Reading(said, how, *match.span(), True))
                break
    return found


def _value(part: str, base: int, digits: int) -> int | None:
    part = part.removeprefix("0x").removeprefix("x") if base == 16 else part
    if not part or len(part) > digits or (base != 10 and len(part) != digits):
        return None
    try:
        value = int(part, base)
    except ValueError:
        return None
    return value if value < 256 else None


def _character(escape: str) -> str:
    value = int(escape[2:].strip("{}"), 16) if escape[1] in "ux" else int(escape[1:], 8)
    return chr(value) if value < 0x110000 and not 0xD800 <= value < 0xE000 else "\N{REPLACEMENT CHARACTER}"


def _whole(text: str) -> list[Reading]:
    """Escapes, percent signs and entities: the whole text, with them replaced."""
    found = []
    if "\\" in text and len(hits := list(_ESCAPES.finditer(text))) >= 4:
        said = _ESCAPES.sub(lambda match: _character(match[0]), text)
        found.append(Reading(said[:_OUTPUT_CHARS], "escapes", hits[0].start(), hits[-1].end(), False))
    if "%" in text and len(hits := list(_PERCENT.finditer(text))) >= 3:
        said = urllib.parse.unquote(text, errors="replace")
        found.append(Reading(said[:_OUTPUT_CHARS], "percent signs", hits[0].start(), hits[-1].end(), False))
    if "&" in text and (hits := list(_ENTITY.finditer(text))):
        said = html.unescape(html.unescape(text))
        found.append(Reading(said[:_OUTPUT_CHARS], "entities", hits[0].start(), hits[-1].end(), False))
    return found


def _games(text: str) -> list[Reading]:
    """Letter games, each only where words of its kind are seen."""
    found = []
    lower = text.lower()
    words = set(_TOKENS.findall(lower))
    if len(words & _TURNED) >= 2:
        found.append(Reading(codecs.decode(text, "rot13"), "rot13", 0, len(text), True))
    if len(words & _BACKWARDS) >= 2 or "\u202e" in text:
        found.append(Reading(text[::-1], "reversal", 0, len(text), True))
    if len(_LETTER_DIGIT.findall(lower)) >= 2:
        found.append(Reading(lower.translate(_LEET), "digits for letters", 0, len(text), False))
    found += _spaced(text)
    return found


def _spaced(text: str) -> list[Reading]:
    """The text with words joined whose letters stand apart; wider gaps stand between words, else only letters are left."""
    if not _ANY_SPACED.search(text):
        return []
    pieces: list[str] = []
    first = last = done = 0
    run: list[tuple[int, int]] = []

    def close() -> None:
        nonlocal first, last, done
        if len(run) >= _SPACED_LETTERS:
            gaps = [after[0] - before[1] for before, after in pairwise(run)]
            narrow = min(gaps)
            pieces.append(text[done : run[0][0]] + text[run[0][0]])
            for gap, (start, end) in zip(gaps, run[1:], strict=True):
                pieces.append((" " if gap > narrow else "") + text[start:end])
            first = first if done else run[0][0]
            done = last = run[-1][1]
        run.clear()

    for match in _ONE.finditer(text):
        start, end = match.span()
        if end - start > 1 or (run and start - run[-1][1] > 4):
            close()
        if end - start == 1:
            run.append((start, end))
    close()
    return [Reading("".join(pieces) + text[done:], "spaced letters", first, last, False)] if pieces else []
