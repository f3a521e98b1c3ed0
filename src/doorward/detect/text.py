"""Inspect one text: every reading of it is folded, its ideas and forms are found, and each finding is put back where it came from."""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import NamedTuple, cast

from doorward.detect import concepts as c
from doorward.detect.decoding import Reading, is_crowded, readings
from doorward.detect.finding import (
    BLOCK_SCORE,
    SEVERITIES,
    Finding,
    Report,
    Severity,
    judge,
    make,
    score_of,
    shifted,
)
from doorward.detect.folding import Folded, fold
from doorward.detect.marks import Mark, Words, marks_of
from doorward.detect.patterns import FORMS, SIGNS
from doorward.detect.phrases import matches
from doorward.detect.rules import RULES
from doorward.detect.smuggling import traces

TEXT_CHARS = 1_048_576  # of one text that are read; what is beyond is a finding by itself
_DEPTH = 2  # an encoding within an encoding is read, deeper ones are not
_FINDINGS_PER_RULE = 3
_READINGS = 160
# Words before or around a finding that make it a text about attacks, which is not one.
_ABOUT = re.compile(
    r"\b(?:injections?|jailbreaks?|attackers? (?:may|might|can|could|try|often|use)|phrases?|such as|examples? of|detects?|blocks?|flags?|prevents?"
    r"|malicious prompts?|adversarial|for example|e\.g\.|quot(?:e|es|ed)|known as|called|titled|beispiel|bijvoorbeeld|par exemple|por ejemplo|например|例如|例えば)"
)
_QUOTES = "\"'`“”‘’«»„「」『』"
_EMPTY_RUN = re.compile(r"\n{15,400}|[ \t\u00a0\u3000]{100,4000}")
_LONG_TOOL_CHARS = 12_000
_SAID_LETTERS = 12
_PROGRAM = re.compile(
    r"\bdef |\bself\b|\breturn |\w\([\w\"']|\w\(\)|=>|::|\w\.\w{1,40}\(|\w_\w{1,40}_\w|@override|\"\]: "
)
# What is remarkable behind an encoding in a page or a program, which are full of encoded settings and links.
_ODD_ENCODED = frozenset(
    {
        "override-instructions",
        "reveal-prompt",
        "change-role",
        "hide-from-user",
        "disable-safety",
        "redirect-call",
        "run-command",
    }
)
# What is odd in the description of a tool and ordinary in the pages and programs that tools return.
_ODD_IN_DEFINITIONS_ONLY = frozenset({"secret-path", "dangerous-command", "hidden-markup", "urgent-block"})


class _Hit(NamedTuple):
    rule: str
    severity: str
    start: int
    end: int
    evidence: str


def _mentions(text: str, gates: tuple[str, ...]) -> bool:
    for gate in gates:  # noqa: SIM110 - a plain loop is faster, and this runs some 200 times for each text
        if gate in text:
            return True
    return False


def _signed(text: str, marks: list[Mark], words: Words, kind: str) -> list[Mark]:
    """The marks of words, and those of paths, addresses and commands among them."""
    extra = []
    for sign in SIGNS:
        if kind in sign.kinds and _mentions(text, sign.gates):
            for found in sign.pattern.finditer(text):
                place = max(0, bisect_right(words.starts, found.start()) - 1)
                step, sentence = (words.steps[place], words.sentences[place]) if words.starts else (0, 0)
                extra.append(Mark(step, sign.mask, found.start(), found.end(), sentence))
    return sorted(marks + extra) if extra else marks


def _hits(folded: Folded, kind: str) -> list[_Hit]:
    """All findings in one folded text, in its own offsets."""
    text = folded.text
    marks, words = marks_of(text)
    marks = _signed(text, marks, words, kind)
    hits = [
        _Hit(phrase.rule, phrase.severity, start, end, text[start:end])
        for phrase, start, end in matches(marks, kind)
    ]
    for form in FORMS:
        if kind in form.kinds and _mentions(text, form.gates):
            for number, found in enumerate(form.pattern.finditer(text)):
                if number >= _FINDINGS_PER_RULE:
                    break
                hits.append(_Hit(form.rule, form.severity, found.start(), found.end(), found[0]))
    for mark in marks:
        if mark.mask & c.PATH:
            hits.append(_Hit("secret-path", "medium", mark.start, mark.end, text[mark.start : mark.end]))
        elif mark.mask & c.SHELL:
            hits.append(
                _Hit("dangerous-command", "medium", mark.start, mark.end, text[mark.start : mark.end])
            )
    return hits


def _is_program(evidence: str) -> bool:
    return bool(_PROGRAM.search(evidence))


def _damped(hit: _Hit, text: str, kind: str) -> str:
    """A lower severity for a text that quotes or explains an attack. In definitions both must be plain."""
    before = text[max(0, hit.start - 90) : hit.start]
    quoted = (
        bool(before)
        and before.rstrip()[-1:] in _QUOTES
        and any(char in _QUOTES for char in text[hit.end : hit.end + 40])
    )
    about = bool(_ABOUT.search(before))
    if kind != "tool" and hit.rule in _ODD_IN_DEFINITIONS_ONLY:
        return hit.severity if kind == "argument" and hit.rule == "secret-path" else "low"
    if RULES[hit.rule].family in ("smuggling", "encoding", "marker", "markup"):
        return hit.severity
    steps = quoted + about + _is_program(hit.evidence) if kind != "tool" else int(quoted and about)
    return shifted(cast("Severity", hit.severity), -steps)


def _layout(text: str, kind: str) -> list[_Hit]:
    hits = []
    if kind == "tool":
        if len(text) > _LONG_TOOL_CHARS:
            hits.append(_Hit("over-long", "medium", _LONG_TOOL_CHARS, len(text), "over-long"))
        for found in _EMPTY_RUN.finditer(text):
            if text[found.end() :].strip() and text[: found.start()].strip():
                hits.append(_Hit("low-visible", "medium", found.start(), found.end(), "empty run"))
                break
    if len(text) > TEXT_CHARS:
        hits.append(_Hit("over-long", "medium", TEXT_CHARS, len(text), "unread"))
    return hits


class _Collector:
    """Findings of one text, each rule at most so often, and none twice."""

    def __init__(self, kind: str, field: str, owner: str) -> None:
        self.kind, self.field, self.owner = kind, field, owner
        self.findings: list[Finding] = []
        self._seen: dict[str, list[tuple[int, int]]] = {}

    def add(self, rule: str, severity: str, start: int, end: int, evidence: str, told: str = "") -> None:
        """Keep a finding, unless one of this rule stands there or there are enough."""
        spans = self._seen.setdefault(rule, [])
        if any(start < other_end and other_start < end for other_start, other_end in spans):
            return
        if len(spans) >= _FINDINGS_PER_RULE:
            return
        spans.append((start, end))
        self.findings.append(
            make(
                rule, kind=self.kind, field=self.field, start=start, end=end, severity=cast("Severity", severity),
                evidence=evidence, owner=self.owner, told=told,
            )
        )  # fmt: skip


def _worst_first(hits: list[_Hit]) -> list[_Hit]:
    return sorted(
        hits, key=lambda hit: (-SEVERITIES.index(cast("Severity", hit.severity)), hit.start, hit.end)
    )


def find(text: str, kind: str = "tool", field: str = "", owner: str = "") -> list[Finding]:
    """All findings in one text. ``kind`` is tool (any text of a definition), prompt, argument or result."""
    collector = _Collector(kind, field, owner)
    whole, text = text, text[:TEXT_CHARS]
    for hit in _layout(whole, kind):
        collector.add(hit.rule, hit.severity, hit.start, hit.end, hit.evidence)
    folded = fold(text)
    for hit in _worst_first(
        [hit._replace(severity=_damped(hit, folded.text, kind)) for hit in _hits(folded, kind)]
    ):
        collector.add(hit.rule, hit.severity, *folded.place(hit.start, hit.end), hit.evidence)
    plain = {RULES[finding.rule].family for finding in collector.findings}
    hidden: list[Reading] = []
    for trace in traces(text):
        # In definitions nothing invisible is there by chance; elsewhere a stray from a web page is.
        severity = (
            "low" if kind != "tool" and trace.severity == "medium" and not trace.says else trace.severity
        )
        collector.add(trace.rule, severity, trace.start, trace.end, trace.says or trace.rule)
        if trace.says:
            hidden.append(Reading(trace.says, "invisible characters", trace.start, trace.end, True))
    if kind == "tool" and is_crowded(text):
        collector.add("encoded-text", "medium", 0, len(text), "crowded", "(more than is read)")
    _read_on([*hidden, *readings(text)], collector, _Plain(folded.text, plain))
    return collector.findings


class _Plain(NamedTuple):
    """The text as it stands, folded, and the families of what was found in it."""

    text: str
    families: set[str]


def _is_hidden(hit: _Hit, reading: Reading, kind: str, plain: _Plain) -> bool:
    """Whether a reading says something bad that the text as it stands does not say."""
    if hit.severity == "low" or RULES[hit.rule].severity == "low":
        return False
    if kind != "tool" and (hit.severity == "medium" or hit.rule not in _ODD_ENCODED):
        if not (reading.is_code and hit.severity != "medium" and hit.rule == "send-data-out"):
            return False
    return reading.is_code or (
        RULES[hit.rule].family not in plain.families and hit.evidence not in plain.text
    )


def _would_block(hits: list[_Hit]) -> bool:
    """Whether these would block a text that says them plainly."""
    findings = [make(hit.rule, kind="tool", severity=cast("Severity", hit.severity)) for hit in hits]
    return score_of(findings) >= BLOCK_SCORE


def _read_on(todo: list[Reading], collector: _Collector, plain: _Plain) -> None:
    """Inspect what is behind encodings, to a depth and number that are bounded."""
    level = [(reading, 1) for reading in todo[:_READINGS]]
    budget = _READINGS
    while level and budget > 0:
        reading, depth = level.pop(0)
        budget -= 1
        said = fold(reading.text)
        hits = _hits(said, collector.kind)
        bad = [hit for hit in hits if _is_hidden(hit, reading, collector.kind, plain)]
        if bad:
            worst = _worst_first(bad)[0]
            severity = "high" if reading.is_code or _would_block(hits) else worst.severity
            collector.add(
                "encoded-instructions", severity, reading.start, reading.end, worst.rule + said.text,
                f"({reading.how}: {RULES[worst.rule].message})",
            )  # fmt: skip
        elif reading.is_code and reading.how in ("base64", "hex", "base32", "bits", "character codes"):
            words = len(re.findall(r"[^\W\d_]{2,}", said.text))
            if (
                collector.kind == "tool"
                and words >= 4
                and " " in said.text
                and len(said.text) >= _SAID_LETTERS
            ):
                collector.add(
                    "encoded-text", "medium", reading.start, reading.end, said.text, f"({reading.how})"
                )
        if depth < _DEPTH:
            level += [
                (more._replace(start=reading.start, end=reading.end, is_code=True), depth + 1)
                for more in readings(reading.text)
            ]


def inspect(text: str, kind: str) -> Report:
    """Findings, score and verdict for one text."""
    return judge(find(text, kind))
