"""Results of a scan as other programs and people read them: SARIF 2.1.0, and a table with the reasons below it."""

from __future__ import annotations

import sys
import urllib.parse
from collections import Counter
from collections.abc import Sequence
from typing import Any

import doorward
from doorward.cli.output import paint, print_table, printable
from doorward.cli.scan_input import STDIN, Item
from doorward.detect.finding import Finding, Report
from doorward.detect.rules import RULES

_LEVELS = {"low": "note", "medium": "warning", "high": "error", "critical": "error"}
_COLOURS = {"block": "red", "flag": "yellow", "allow": "green"}
_EXCERPT_CHARS = 60
_SHOWN_FINDINGS = 6
FINGERPRINT = "doorwardFinding/v1"


def sarif(items: Sequence[Item], reports: Sequence[Report], about_set: Sequence[Finding]) -> dict[str, Any]:
    """One SARIF run. Fingerprints do not change when text is moved, only when what was found does."""
    results: list[dict[str, Any]] = []
    times: Counter[str] = Counter()
    for item, report in zip(items, reports, strict=True):
        results += [_result(item, finding, report.verdict, times) for finding in report.findings]
    tools = [item for item in items if item.kind == "tool"]
    for finding in about_set:
        results.append(_result(tools[int(finding.field.rpartition("/")[2])], finding, "", times))
    used = sorted({result["ruleId"] for result in results})
    for result in results:
        result["ruleIndex"] = used.index(result["ruleId"])
    driver = {
        "name": "doorward scan",
        "version": doorward.__version__,
        "semanticVersion": doorward.__version__,
        "rules": [
            {
                "id": rule,
                "shortDescription": {"text": RULES[rule].message},
                "defaultConfiguration": {"level": _LEVELS[RULES[rule].severity]},
                "properties": {"tags": ["security", RULES[rule].owasp, RULES[rule].family]},
            }
            for rule in used
        ],
    }
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}],
    }


def _result(item: Item, finding: Finding, verdict: str, times: Counter[str]) -> dict[str, Any]:
    place = f"{item.server}/{item.name}"
    key = f"{finding.fingerprint}:{place}"
    times[key] += 1
    uri = urllib.parse.quote(item.file.replace("\\", "/")) if item.file != STDIN else "stdin"
    return {
        "ruleId": finding.rule,
        "level": _LEVELS[finding.severity],
        "message": {"text": f"{printable(place)}: {finding.message}"},
        "locations": [
            {
                "physicalLocation": {"artifactLocation": {"uri": uri}, "region": {"startLine": item.line}},
                "logicalLocations": [{"fullyQualifiedName": place + finding.field, "kind": "member"}],
            }
        ],
        "partialFingerprints": {FINGERPRINT: f"{finding.fingerprint}:{times[key]}"},
        "properties": {
            "severity": finding.severity,
            "verdict": verdict,
            "field": finding.field,
            "start": finding.start,
            "end": finding.end,
            "control": finding.control,
        },
    }


def excerpt(value: Any, finding: Finding) -> str:
    """The text that a finding is about, safe to print."""
    for part in finding.field.split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        try:
            value = value[int(part)] if isinstance(value, list) else value[part]
        except (KeyError, IndexError, ValueError, TypeError):
            return ""
    if not isinstance(value, str):
        return printable(finding.field.rpartition("/")[2])[:_EXCERPT_CHARS]
    start = max(0, finding.start - 8)
    return printable(" ".join(value[start : start + _EXCERPT_CHARS].split()))


def print_people(items: Sequence[Item], reports: Sequence[Report], about_set: Sequence[Finding]) -> None:
    """A row for each definition, then the reasons, then what is true of the set."""
    rows = []
    colours = []
    for item, report in zip(items, reports, strict=True):
        worst = report.findings[0] if report.findings else None
        rows.append(
            (item.server, item.name or "-", item.kind, report.verdict, f"{worst.rule} ({worst.severity})" if worst else "-")
        )  # fmt: skip
        colours.append(("", "", "", _COLOURS[report.verdict], ""))
    print_table(("server", "name", "kind", "verdict", "worst finding"), rows, colours)
    for item, report in zip(items, reports, strict=True):
        if report.verdict == "allow":
            continue
        head = f"{item.server}/{item.name or '-'}"
        sys.stdout.write(
            f"\n{paint(printable(head), 'bold')}: {paint(report.verdict, _COLOURS[report.verdict])}\n"
        )
        for finding in report.findings[:_SHOWN_FINDINGS]:
            where = finding.field or "(whole)"
            sys.stdout.write(
                f"  {finding.severity:<8}  {finding.rule:<22}  {printable(finding.message)}\n"
                f"            {printable(where)}: {excerpt(item.value, finding)}\n"
            )
        if len(report.findings) > _SHOWN_FINDINGS:
            sys.stdout.write(f"  and {len(report.findings) - _SHOWN_FINDINGS} more\n")
    if about_set:
        sys.stdout.write("\n" + paint("the set", "bold") + "\n")
        for finding in about_set:
            sys.stdout.write(
                f"  {finding.severity:<8}  {finding.rule:<22}  {printable(finding.message)} {finding.field}\n"
            )
    counts = Counter(report.verdict for report in reports)
    sys.stdout.write(
        f"\n{len(items)} definitions: {counts['allow']} allow, {counts['flag']} flag, {counts['block']} block.\n"
    )
