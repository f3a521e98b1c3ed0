"""Fold a text to what a reader takes it for: width, case, accents and look-alike letters gone, invisible characters left out."""

from __future__ import annotations

import re
import unicodedata

# Letters of other scripts, and what a reader of Latin takes them for (of UTS 39's table, those that fonts draw alike).
_ALIKE_PAIRS = (
    "аaвbсcеeнhіiјjкkмmоoрpԛqѕsтtуyхxԝwьbзeгrпnѵvһhԁdӏlцuчyшwъbэeґr"
    "αaβbγyεeζzηnιiκkμuνvοoρpσoςcτtυuχxωwδd"
    "աwցgհhոnսuօoքpզqյjտsեtրp"
    "ⲁaⲃbⲅrⲉeⲏhⲓiⲕkⲙmⲛnⲟoⲣpⲥcⲧtⲩyⲭx"
    "ꭺaᏴbᏟcᎠdᎬeᏀgᎻhᎥiᎫjᏦkᏞlᎷmᏢpᎡrᏚsᎢtᏙvᎳwᏃz"
    "ıiɩiɪiȷjɑaɡgʀrʜhʟlɴnᴀaʙbᴄcᴅdᴇeꜰfɢgᴊjᴋkᴍmᴏoᴘpꞯqꜱsᴛtᴜuᴠvᴡwʏyᴢzⅼlⅰiⅽcⅾdⅿmℓlſsɐaɔcǝeɥhɯmɹrʇtʌvʎy"
)
ALIKE = {_ALIKE_PAIRS[place].lower(): _ALIKE_PAIRS[place + 1] for place in range(0, len(_ALIKE_PAIRS) - 1, 2)}
_PLAIN = {
    "ł": "l",
    "ø": "o",
    "đ": "d",
    "ħ": "h",
    "æ": "ae",
    "œ": "oe",
    "ð": "d",
    "þ": "th",
    "’": "'",
    "ʼ": "'",
    "´": "'",
}
_FOREIGN = re.compile("[" + "".join(sorted(ALIKE)) + "]")
_WORD = re.compile(r"[^\W_]{2,64}")
_LATIN = re.compile(r"[a-z]")
_MEMO_ENTRIES = 65_536
_WIDE_START = 0x2E80  # from here on characters are folded in width only: kana and hangul keep their marks

# Default-ignorable and format characters: dropped from every folded text (UTS 39 "identifier status", DerivedCoreProperties).
INVISIBLE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_IS_INVISIBLE = re.compile(f"[{INVISIBLE}]")
_memo: dict[str, str] = {}


class Folded:
    """A folded text, and for each of its characters where it comes from; ``origin`` None means one to one."""

    __slots__ = ("origin", "text")

    def __init__(self, text: str, origin: list[int] | None) -> None:
        self.text = text
        self.origin = origin

    def place(self, start: int, end: int) -> tuple[int, int]:
        """The span of the unfolded text that a span of the folded one comes from."""
        if self.origin is None or not self.origin:
            return start, end
        return self.origin[min(start, len(self.origin) - 1)], self.origin[min(end, len(self.origin)) - 1] + 1


def _fold_character(char: str) -> str:
    folded = _memo.get(char)
    if folded is not None:
        return folded
    if _IS_INVISIBLE.match(char):
        folded = ""
    elif (
        ord(char) >= _WIDE_START
        and unicodedata.category(char) != "Ll"
        and not 0x1D400 <= ord(char) <= 0x1D7FF
    ):
        folded = unicodedata.normalize("NFKC", char).casefold()
    else:
        parts = unicodedata.normalize("NFKD", char).casefold()
        parts = unicodedata.normalize("NFKD", parts)
        folded = "".join(_PLAIN.get(one, one) for one in parts if not unicodedata.combining(one))
    if len(_memo) < _MEMO_ENTRIES:
        _memo[char] = folded
    return folded


def fold(text: str) -> Folded:
    """Fold a text. Time and size are those of the text: no character unfolds to more than 18 others."""
    if text.isascii():
        return Folded(text.lower(), None)
    pieces: list[str] = []
    origin: list[int] = []
    for place, char in enumerate(text):
        folded = char.lower() if char < "\x80" else _fold_character(char)
        pieces.append(folded)
        if len(folded) == 1:
            origin.append(place)
        elif folded:
            origin.extend([place] * len(folded))
    return Folded(_resolve_alike("".join(pieces)), origin)


def _resolve_alike(text: str) -> str:
    """Read look-alike letters as Latin ones in words that mix scripts; whole words of another script may be that script's."""
    if not _FOREIGN.search(text):
        return text
    return _WORD.sub(
        lambda found: as_latin(found[0]) if _LATIN.search(found[0]) else found[0],
        text,
    )


def as_latin(word: str) -> str:
    """A word with its look-alike letters read as the Latin ones."""
    return _FOREIGN.sub(lambda found: ALIKE[found[0]], word)


def skeleton(name: str) -> str:
    """What a name looks like: folded, without dashes, digits read as the letters they resemble (the idea of UTS 39, section 4)."""
    folded = as_latin(fold(name).text)
    return folded.replace("rn", "m").replace("vv", "w").translate(_AS_LETTERS)


_AS_LETTERS = str.maketrans(
    {"0": "o", "1": "l", "i": "l", "|": "l", "5": "s", "_": None, "-": None, ".": None, " ": None}
)
