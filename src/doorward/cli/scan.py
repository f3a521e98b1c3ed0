"""``doorward scan``: look for poisoned definitions in saved lists of tools, each alone and all as one set."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from doorward.base.errors import OperatorError


def scan(
    *paths: Annotated[
        Path, Parameter(help="Saved lists of tools, JSON or JSON lines; none is standard input.")
    ],
    as_json: Annotated[bool, Parameter(name="--json", help="One JSON document.", negative="")] = False,
    as_sarif: Annotated[bool, Parameter(name="--sarif", help="SARIF 2.1.0.", negative="")] = False,
) -> int:
    """Scan saved lists of tools for poisoned definitions. Several files are one set; exit code 1 when any is not allowed."""
    from doorward.cli.output import print_json
    from doorward.cli.scan_input import STDIN, read_items
    from doorward.cli.scan_report import print_people, sarif
    from doorward.detect.definition import report_on
    from doorward.detect.toolset import Listed, scan_set

    if not paths and sys.stdin.isatty():
        raise OperatorError(
            "scan-input", "Name at least one saved list of tools, or give one on standard input."
        )
    if as_json and as_sarif:
        raise OperatorError("scan-input", "Choose one of --json and --sarif.")
    items = read_items(paths or (Path(STDIN),))
    whole = scan_set([Listed(item.server, item.value) for item in items if item.kind == "tool"])
    of_tools = iter(whole.tools)
    reports = [next(of_tools) if item.kind == "tool" else report_on(item.kind, item.value) for item in items]
    if as_json:
        rows = [
            {"server": item.server, "name": item.name, "verdict": report.verdict, "score": report.score, "findings": report.findings}
            for item, report in zip(items, reports, strict=True)
        ]  # fmt: skip
        document: dict[str, Any] = {
            "tools": [row for item, row in zip(items, rows, strict=True) if item.kind == "tool"],
            "set_findings": whole.findings,
        }
        if len(whole.tools) < len(items):
            document["others"] = [
                {"kind": item.kind, **row}
                for item, row in zip(items, rows, strict=True)
                if item.kind != "tool"
            ]
        print_json(document)
    elif as_sarif:
        print_json(sarif(items, reports, whole.findings))
    else:
        print_people(items, reports, whole.findings)
    return 1 if any(report.verdict != "allow" for report in reports) else 0
