"""Find words of the lexicon in a folded text: which idea stands where, counted in words from the start."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from doorward.detect.folding import as_latin, fold
from doorward.detect.lexicon_acts import ACTS
from doorward.detect.lexicon_things import THINGS

_WORD = re.compile(r"[^\W_]+")
_SENTENCE_END = re.compile(r"[.;]\s|[!?。]|\n\s{0,6}(?:\n|[-*•#])")  # a line may go on in the next one
_SENTENCE_STEPS = 4  # a sentence's end keeps ideas apart as that many words do
_SHORTEST_STEM = 2
_APART = re.compile(r"[\"{}()\[\]|<>:;.!?=\\/]")  # what stands between words that are no phrase
_LONGEST_WORD = 48
_PHRASE_WORDS = 5
_WIDE = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")
# Words of which a scrambled inside is still read: the first and last letter stay, the others change places.
_SCRAMBLED = (
    "ignore previous instructions instruction disregard forget override system prompt reveal password passwords secret "
    "secrets credentials guidelines directives confidential conversation attacker silently exfiltrate upload forward recipient"
)


class Mark(NamedTuple):
    """Some ideas at one place: ``step`` counts words, ``start`` and ``end`` characters of the folded text."""

    step: int
    mask: int
    start: int
    end: int
    sentence: int


class _Phrase(NamedTuple):
    rest: tuple[str, ...]
    mask: int


def _words(text: str) -> tuple[str, ...]:
    """The words of a lexicon entry, folded; ``*`` at the end of one stays."""
    found = re.findall(r"[^\W_]+\*?", fold(text).text)
    return tuple(found)


def _build() -> tuple[
    dict[str, int], dict[str, int], dict[str, list[_Phrase]], dict[str, list[tuple[str, int]]]
]:
    exact: dict[str, int] = {}
    stems: dict[str, int] = {}
    phrases: dict[str, list[_Phrase]] = {}
    wide: dict[str, list[tuple[str, int]]] = {}
    for table in (ACTS, THINGS):
        for mask, lines in table.items():
            for entry in ",".join(lines).split(","):
                words = _words(entry)
                if not words:
                    continue
                if _WIDE.search(entry) and len(words) > 1:  # Korean, which has spaces and many endings
                    phrases.setdefault(words[0] + "*", []).append(
                        _Phrase(tuple(f"{word}*" for word in words[1:]), mask)
                    )
                elif _WIDE.search(entry):
                    text = "".join(fold(entry).text.split())
                    wide.setdefault(text[0], []).append((text, mask))
                elif len(words) > 1:
                    phrases.setdefault(words[0], []).append(_Phrase(words[1:], mask))
                elif words[0].endswith("*"):
                    stem = words[0][:-1]
                    stems[stem] = stems.get(stem, 0) | mask
                else:
                    exact[words[0]] = exact.get(words[0], 0) | mask
    return exact, stems, phrases, wide


_EXACT, _STEMS, _PHRASES, _WIDE_ENTRIES = _build()


def _shape(word: str) -> str:
    return word[0] + "".join(sorted(word[1:-1])) + word[-1]


_SHAPES = {_shape(word): word for word in _SCRAMBLED.split() if len(word) > 5}
_NOTHING: tuple[_Phrase, ...] = ()


@lru_cache(maxsize=32_768)
def _meaning(word: str) -> tuple[int, tuple[_Phrase, ...]]:
    """The ideas of one word, and the phrases that may begin with it."""
    mask = _EXACT.get(word, 0)
    phrases = _PHRASES.get(word, [])
    for length in range(_SHORTEST_STEM, min(len(word), _LONGEST_WORD) + 1):
        stem = word[:length]
        mask |= _STEMS.get(stem, 0)
        if (more := _PHRASES.get(stem + "*")) is not None:
            phrases = phrases + more
    if mask == 0 and not phrases:
        latin = as_latin(word)
        if latin != word:
            return _meaning(latin)
        if len(word) > 5 and (whole := _SHAPES.get(_shape(word))) is not None:
            return _meaning(whole)
    return mask, tuple(phrases) if phrases else _NOTHING


def _fits(pattern: str, word: str) -> bool:
    return word.startswith(pattern[:-1]) if pattern.endswith("*") else word == pattern


class Words(NamedTuple):
    """The words of a folded text: what they are, where they start, and their step and sentence."""

    words: list[str]
    starts: list[int]
    steps: list[int]
    sentences: list[int]


def marks_of(text: str) -> tuple[list[Mark], Words]:
    """All marks in a folded text in order, and its words."""
    found_words = Words([], [], [], [])
    words, starts, steps, sentences = found_words
    marks: list[Mark] = []
    step, last, sentence = 0, 0, 0
    for found in _WORD.finditer(text):
        start = found.start()
        gap = start - last  # one space is by far the most common, and ends nothing
        if words and (gap > 1 or (gap == 1 and text[last] in "!?。")):
            ended = _SENTENCE_END.search(text, last, min(start, last + 8))
        else:
            ended = None
        if ended:
            step += _SENTENCE_STEPS
            sentence += 1
        last = found.end()
        word = found[0]
        words.append(word)
        starts.append(start)
        steps.append(step)
        sentences.append(sentence)
        if not word.isascii() and _WIDE.search(word):
            _mark_wide(word, start, step, sentence, marks)
            step += max(1, len(word) // 2)
        else:
            step += 1
    _mark_words(text, found_words, marks)
    marks.sort()
    return marks, found_words


def _mark_words(text: str, found: Words, marks: list[Mark]) -> None:
    words, starts, steps, sentences = found
    for place, word in enumerate(words):
        mask, phrases = _meaning(word)
        start = starts[place]
        if mask:
            marks.append(Mark(steps[place], mask, start, start + len(word), sentences[place]))
        for phrase in phrases:
            after = words[place + 1 : place + 1 + len(phrase.rest)]
            if len(after) == len(phrase.rest) and all(map(_fits, phrase.rest, after)):
                end = place + len(phrase.rest)
                if _APART.search(text, start + len(word), starts[end]):
                    continue
                marks.append(
                    Mark(steps[place], phrase.mask, start, starts[end] + len(words[end]), sentences[place])
                )


def _mark_wide(word: str, start: int, step: int, sentence: int, marks: list[Mark]) -> None:
    """Entries of scripts without spaces, anywhere in a run of their characters."""
    for place, char in enumerate(word):
        for entry, mask in _WIDE_ENTRIES.get(char, ()):
            if word.startswith(entry, place):
                marks.append(
                    Mark(step + place // 2, mask, start + place, start + place + len(entry), sentence)
                )


def split_name(name: str) -> str:
    """An identifier with its words apart, character by character as long as before where nothing had to be put in between."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).replace("_", " ").replace("-", " ")


def has(marks: list[Mark], mask: int) -> bool:
    """Whether any mark carries one of these ideas."""
    return any(mark.mask & mask for mark in marks)
