"""What an inspection found, how bad it is, and what follows from all findings about one thing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from doorward.detect.rules import RULES

Verdict = Literal["allow", "flag", "block"]
Severity = Literal["low", "medium", "high", "critical"]
Kind = Literal["tool", "prompt", "argument", "result"]

SEVERITIES: tuple[Severity, ...] = ("low", "medium", "high", "critical")
# How sure one finding alone makes us. One of high, or two of medium from different families, is a block; one of medium a flag;
# those of low are told and, unless there are many families of them, nothing follows. Rules that support count once, all together.
WEIGHTS: dict[str, float] = {"low": 0.12, "medium": 0.55, "high": 0.9, "critical": 0.99}
SUPPORT_WEIGHT = 0.46  # not enough for a flag, and with one of medium enough for a block
FLAG_SCORE = 0.5
BLOCK_SCORE = 0.75
CONTROL_OF_KIND: dict[str, str] = {"tool": "scan-definitions"}
DEFAULT_CONTROL = "find-injection"


class Finding(msgspec.Struct, frozen=True, omit_defaults=False):
    """One finding. ``field`` is a JSON Pointer into the definition, "" for a text; offsets count code points."""

    control: str
    rule: str
    severity: Severity
    field: str
    start: int
    end: int
    message: str
    owasp: str
    fingerprint: str


class Report(msgspec.Struct, frozen=True):
    """What follows from all findings about one text or one definition."""

    verdict: Verdict
    score: float
    findings: tuple[Finding, ...]


def make(
    rule: str,
    *,
    kind: str,
    field: str = "",
    start: int = 0,
    end: int = 0,
    severity: Severity | None = None,
    evidence: str = "",
    owner: str = "",
    told: str = "",
) -> Finding:
    """A finding by its rule. The fingerprint depends on what was found where, and not on its offset."""
    known = RULES[rule]
    place = "/".join("*" if part.isdigit() else part for part in field.split("/"))
    parts = "\x1f".join((rule, owner, place, " ".join(evidence.split())[:400]))
    return Finding(
        control=CONTROL_OF_KIND.get(kind, DEFAULT_CONTROL),
        rule=rule,
        severity=severity or known.severity,
        field=field,
        start=start,
        end=end,
        message=known.message + (f" {told}" if told else ""),
        owasp=known.owasp,
        fingerprint=hashlib.sha256(parts.encode("utf-8", "surrogatepass")).hexdigest()[:32],
    )


def shifted(severity: Severity, steps: int) -> Severity:
    """A severity some steps up or down, within the scale."""
    place = SEVERITIES.index(severity) + steps
    return SEVERITIES[max(0, min(place, len(SEVERITIES) - 1))]


def score_of(findings: Iterable[Finding]) -> float:
    """Between 0 and 1: the worst finding of each family counts once, and families add up as independent doubts."""
    worst: dict[str, float] = {}
    supporting = 0.0
    for finding in findings:
        rule = RULES[finding.rule]
        weight = WEIGHTS[finding.severity]
        if rule.supports:
            supporting = max(supporting, weight, SUPPORT_WEIGHT)
        else:
            worst[rule.family] = max(worst.get(rule.family, 0.0), weight)
    clean = 1.0 - supporting
    for weight in worst.values():
        clean *= 1.0 - weight
    return round(1.0 - clean, 4)


def judge(findings: Sequence[Finding]) -> Report:
    """The verdict over all findings about one thing, worst first."""
    score = score_of(findings)
    verdict: Verdict = "block" if score >= BLOCK_SCORE else "flag" if score >= FLAG_SCORE else "allow"
    ordered = sorted(
        findings, key=lambda one: (-SEVERITIES.index(one.severity), one.field, one.start, one.end, one.rule)
    )
    return Report(verdict=verdict, score=score, findings=tuple(ordered))
