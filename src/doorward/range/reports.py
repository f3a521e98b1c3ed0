"""Results in the forms that other programs read: JUnit for build servers, SARIF 2.1.0 for code scanners."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import quoteattr

from doorward import __version__
from doorward.range.index import find
from doorward.range.lab import EXPECTED
from doorward.range.runner import Result


def what_failed(result: Result) -> str:
    """Why a result is not ok, in one line; "" when it is."""
    if result.ok:
        return ""
    found = []
    for phase, expected in EXPECTED.items():
        outcome = getattr(result, phase)
        if outcome != expected:
            why = result.evidence.phases[phase].why or "unexpected"
            found.append(f"{phase.replace('_', ' ')} is {outcome}, not {expected} ({why})")
    return "; ".join(found)


def junit(results: Sequence[Result]) -> str:
    """One test case for each lab and cell; an inconclusive one is an error, a hole a failure."""
    lines = ['<?xml version="1.0" encoding="UTF-8"?>']
    failures = sum(1 for one in results if not one.ok and not _is_inconclusive(one))
    errors = sum(1 for one in results if _is_inconclusive(one))
    lines.append(
        f'<testsuite name="doorward range" tests="{len(results)}" failures="{failures}" errors="{errors}">'
    )
    for one in results:
        name = quoteattr(f"{one.lab} {one.title} ({one.cell})")
        if one.ok:
            lines.append(f'  <testcase classname="doorward.range" name={name}/>')
            continue
        kind = "error" if _is_inconclusive(one) else "failure"
        lines.append(f'  <testcase classname="doorward.range" name={name}>')
        lines.append(f"    <{kind} message={quoteattr(what_failed(one))}/>")
        lines.append("  </testcase>")
    return "\n".join([*lines, "</testsuite>", ""])


def sarif(results: Sequence[Result]) -> dict[str, Any]:
    """One rule for each lab, one result for each that is not ok."""
    rows = [find(lab) for lab in dict.fromkeys(one.lab for one in results)]
    rules = [
        {
            "id": row.lab,
            "shortDescription": {"text": row.title},
            "properties": {"tags": [*row.owasp, *row.catalogue, *row.controls]},
        }
        for row in rows
    ]
    found = [
        {
            "ruleId": one.lab,
            "level": "warning" if _is_inconclusive(one) else "error",
            "message": {"text": f"{one.title} ({one.cell}): {what_failed(one)}"},
            "properties": {"era": one.era, "cell": one.cell, "events": one.evidence.events},
        }
        for one in results
        if not one.ok
    ]
    driver = {"name": "doorward range", "version": __version__, "rules": rules}
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": found}],
    }


def _is_inconclusive(result: Result) -> bool:
    return any(getattr(result, phase) == "inconclusive" for phase in EXPECTED)
