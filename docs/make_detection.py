"""Write docs/reference/detection.md from the newest results in bench/results and from the manifest of what was tuned on.

`python docs/make_detection.py` writes it; it needs no data, only the numbers that `make eval` left.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec

HOME = Path(__file__).resolve().parent.parent
PAGE = HOME / "docs" / "reference" / "detection.md"

OPENING = """# Detection: figures

Written by `docs/make_detection.py` from `bench/results/{file}`, which `make eval` wrote. [The guide](../guide/scan.md) says what the
verdicts mean, [rules.py](../../src/doorward/detect/rules.py) lists the rules.

The rows belong to others and are not in this project: `make eval` reads them from the folder that `DOORWARD_DATA` names, and the results
hold their digests. Intervals are 95 % (Wilson). *Held* is blocked or flagged.

What matters is how it does on what it has never seen, and there is little of that left: whoever tunes looks. So each figure says how much
was looked at.
"""


def cell(share: dict[str, Any]) -> str:
    """A share with its interval."""
    low, high = share["interval"]
    return f"{share['hits']} of {share['of']}, {share['percent']} % ({low} to {high})"


def row(name: str, counts: dict[str, Any]) -> str:
    """One line of a table."""
    return f"| {name} | {cell(counts['blocked'])} | {cell(counts['held'])} |"


def definitions(result: dict[str, Any], manifest: dict[str, Any]) -> list[str]:
    """The part about definitions of tools."""
    found = result["definitions"]
    lines = ["## Definitions", "", "| | blocked | held |", "|---|---|---|"]
    for expected, said in (("quarantine", "to be quarantined"), ("flag", "to be flagged"), ("pass", "clean")):
        counts = found["definitions of public demo servers"][expected]
        lines.append(row(f"poisoned and clean definitions of public demo servers: {said}", counts))
    lines += [
        row(f"definitions of real servers: {part}", counts)
        for part, counts in found["benign definitions"].items()
    ]
    lines.append(row("the same, all as one set", found["benign definitions, all in one set"]))
    times = found["microseconds a definition"]
    lines += [
        "",
        f"* The demo servers' definitions were read before the rules were written; {len(manifest['labels that we do not share'])} rows that another",
        "  scanner's tests name as its own false alarms are left out.",
        f"* {manifest['benign definitions tuned on']} were tuned on.",
        f"* {manifest['benign definitions looked at later']}",
        f"* A definition takes {times['mean']:,} microseconds of CPU on average, {times['p50']:,} in the middle, {times['p99']:,} at the 99th percentile",
        "  (1.7 kB of JSON on average; a busy machine with two virtual cores).",
    ]
    own = result["own texts"]
    lines += [
        "",
        f"One harmful sentence in {own['disguises blocked']['of']} disguises: {own['disguises blocked']['hits']} blocked. {own['ordinary characters with a finding']['of']} ordinary texts with",
        f"joiners, direction marks, flags and emoji: {own['ordinary characters with a finding']['hits']} with a finding. Both are ours, in `tests/texts`.",
    ]
    return lines


def messages(result: dict[str, Any]) -> list[str]:
    """The part about JSON-RPC messages of another scanner's tests."""
    counts = result["definitions"].get("messages of another scanner's tests", {})
    lines = [
        "",
        "Messages of another scanner's tests, by what they expect:",
        "",
        "| expected | block | flag | allow | nothing to read |",
        "|---|---|---|---|---|",
    ]
    for expected in ("block", "warn", "pass"):
        one = counts.get(expected, {})
        lines.append(
            f"| {expected} | "
            + " | ".join(str(one.get(key, 0)) for key in ("block", "flag", "allow", "nothing to read"))
            + " |"
        )
    return lines


def texts(result: dict[str, Any]) -> list[str]:
    """The part about prompts, pages and results of tools."""
    lines = [
        "",
        "## Prompts, pages and results",
        "",
        "Here detection is a help and no wall: many attacks are ordinary requests, and only who sends them makes them attacks. The first",
        "1,500 rows of each source.",
        "",
        "| source | looked at | attacks blocked | attacks held | harmless blocked | harmless held |",
        "|---|---|---|---|---|---|",
    ]
    for name, part in result["texts"].items():
        cells = []
        for label in ("attack", "benign"):
            counts = part.get(label)
            cells += [
                f"{counts[key]['percent']} % of {counts['rows']}" if counts else ""
                for key in ("blocked", "held")
            ]
        lines.append(f"| {name} | {'yes' if part['looked at'] else 'no'} | {' | '.join(cells)} |")
    return lines


def render() -> str:
    """The text of the page."""
    newest = max((HOME / "bench" / "results").glob("detection-*.json"))
    result = msgspec.json.decode(newest.read_bytes())
    manifest = msgspec.json.decode((HOME / "bench" / "detection_manifest.json").read_bytes())
    lines = [
        OPENING.format(file=newest.name),
        *definitions(result, manifest),
        *messages(result),
        *texts(result),
        "",
        "## What was tuned on",
        "",
        "[bench/detection_manifest.json](../../bench/detection_manifest.json) has it in full. Of the sources that are marked *no*, only these figures were",
        "seen; of the others, misses or false alarms were read and rules changed in answer.",
        "",
        "## What it misses",
        "",
        "* Attacks without any known idea in them: role plays, riddles, requests that would be fine from the right person.",
        "* Definitions that politely describe harmful behaviour, when nothing says secret, send, hide or the like.",
        "* Letter games in languages other than English, and ideographs that are reversed.",
        "* Languages beyond the eleven: Korean, Turkish, Ukrainian, Arabic and Swedish have a few words only.",
        "",
    ]
    return "\n".join(lines)


def main() -> int:
    """Write the page, or compare it."""
    text = render()
    if "--check" in sys.argv[1:]:
        return 0 if PAGE.read_text(encoding="utf-8") == text else 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
