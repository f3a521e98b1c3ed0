"""Measure detection on labelled data that lies in a folder of yours: how much is found, how much is found wrongly, how fast.

The folder is named by DOORWARD_DATA or by the first argument, and is not a part of this project. Rows are JSON lines:
``tools/*.jsonl`` hold definitions (``tool``) or texts (``text``) with ``expect``, ``detection/*.jsonl`` texts with ``label`` and ``kind``.
Only numbers are written, to ``bench/results/detection-DATE.json``. What was tuned on is in ``bench/detection_manifest.json``.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import os
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

HOME = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(HOME / "src"))
sys.path.insert(0, str(HOME))

from tests.texts.smuggled import DISGUISES, ORDINARY, SENTENCE  # noqa: E402

from doorward.detect.definition import report_on  # noqa: E402
from doorward.detect.finding import Report  # noqa: E402
from doorward.detect.text import inspect  # noqa: E402
from doorward.detect.toolset import Listed, scan_set  # noqa: E402

KIND_OF_CHANNEL = {"prompt": "prompt", "tool_description": "tool", "tool": "tool"}
FAST_ROWS = 1_500  # of one file of texts; the first ones, so that a run takes minutes


def interval(hits: int, total: int) -> list[float]:
    """The 95 % interval of a share (Wilson), in per cent."""
    if total == 0:
        return [0.0, 100.0]
    z, share = 1.96, hits / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / (1 + z * z / total)
    return [round(100 * max(0.0, middle - spread), 2), round(100 * min(1.0, middle + spread), 2)]


def share(hits: int, total: int) -> dict[str, Any]:
    return {
        "hits": hits, "of": total, "percent": round(100 * hits / total, 2) if total else None, "interval": interval(hits, total)
    }  # fmt: skip


def verdicts(reports: list[Report]) -> dict[str, Any]:
    counts = Counter(report.verdict for report in reports)
    total = len(reports)
    return {
        "rows": total,
        "blocked": share(counts["block"], total),
        "flagged": share(counts["flag"], total),
        "held": share(counts["block"] + counts["flag"], total),
    }


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line.strip()]


def definitions(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    path = folder / "tools" / "benign.jsonl"
    if path.is_file():
        by_part: dict[str, list[Report]] = defaultdict(list)
        listed, costs = [], []
        for row in rows(path):
            server = row["id"].partition("/")[0]
            part = "tuned" if hashlib.sha256(server.encode()).digest()[0] % 2 == 0 else "looked at later"
            before = time.process_time()
            by_part[part].append(report_on("tool", row["tool"]))
            costs.append((time.process_time() - before) * 1e6)
            listed.append(Listed(server, row["tool"]))
        costs.sort()
        found["benign definitions"] = {part: verdicts(reports) for part, reports in by_part.items()}
        found["benign definitions, all in one set"] = verdicts(scan_set(listed).tools)
        found["microseconds a definition"] = {
            "mean": round(sum(costs) / len(costs)), "p50": round(costs[len(costs) // 2]), "p99": round(costs[int(len(costs) * 0.99)])
        }  # fmt: skip
    path = folder / "tools" / "definitions.jsonl"
    if path.is_file():
        by_expectation: dict[str, list[Report]] = defaultdict(list)
        skipped = set(manifest["labels that we do not share"])
        for row in rows(path):
            if row["id"] not in skipped:
                by_expectation[row["expect"]].append(report_on("tool", row["tool"]))
        found["definitions of public demo servers"] = {
            expected: verdicts(reports) for expected, reports in by_expectation.items()
        }
    return found


def judged_frame(frame: dict[str, Any]) -> list[Report]:
    """The reports on everything in one message that a model would read."""
    result = frame.get("result") or {}
    params = frame.get("params") or {}
    reports = [report_on("tool", tool) for tool in result.get("tools", ())]
    if "instructions" in result:
        reports.append(report_on("instructions", result["instructions"]))
    parts = [
        *result.get("content", ()),
        *result.get("contents", ()),
        *(one["content"] for one in result.get("messages", ())),
    ]
    reports += [inspect(part["text"], "result") for part in parts if isinstance(part.get("text"), str)]
    for name in ("systemPrompt", "message"):
        if isinstance(params.get(name), str):
            reports.append(inspect(params[name], "result"))
    return reports


def frames(folder: Path) -> dict[str, Any]:
    path = folder / "tools" / "frames.jsonl"
    if not path.is_file():
        return {}
    worst: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows(path):
        found = {report.verdict for report in judged_frame(row["frame"])} or {"nothing to read"}
        worst[row["expect"]][
            next(one for one in ("block", "flag", "allow", "nothing to read") if one in found)
        ] += 1
    return {
        "messages of another scanner's tests": {expected: dict(counts) for expected, counts in worst.items()}
    }


def texts(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    tuned = set(manifest["texts whose misses were looked at"]) | set(
        manifest["texts whose false alarms were looked at"]
    )
    for path in sorted((folder / "detection").glob("*.jsonl")):
        by_label: dict[str, list[Report]] = defaultdict(list)
        for row in rows(path)[:FAST_ROWS]:
            kind = KIND_OF_CHANNEL.get(row.get("channel", ""), "result")
            if row.get("kind") == "tool_description":
                kind = "tool"
            by_label["attack" if row["label"] else "benign"].append(inspect(row["text"], kind))
        part = {label: verdicts(reports) for label, reports in by_label.items()}
        found[path.stem] = {"looked at": path.stem in tuned, **part}
    return found


def disguises() -> dict[str, Any]:
    kept = [inspect(disguise(SENTENCE), "tool").verdict == "block" for disguise in DISGUISES.values()]
    wrong = [bool(inspect(text, "tool").findings) for _, text in ORDINARY]
    return {
        "disguises blocked": share(sum(kept), len(kept)),
        "ordinary characters with a finding": share(sum(wrong), len(wrong)),
    }


def main() -> int:
    """Measure what is there, print it and write it down."""
    named = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("DOORWARD_DATA", "")
    manifest = json.loads((HOME / "bench" / "detection_manifest.json").read_text(encoding="utf-8"))
    result: dict[str, Any] = {"date": datetime.date.today().isoformat(), "own texts": disguises()}
    if not named:
        print(
            "DOORWARD_DATA names no folder with labelled data: only our own texts are measured, nothing is written."
        )
        print(json.dumps(result, indent=1))
        return 0
    folder = Path(named)
    if not (folder / "tools").is_dir() and not (folder / "detection").is_dir():
        print(f"{folder} has neither tools/ nor detection/.", file=sys.stderr)
        return 2
    result["data"] = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for part in ("tools", "detection")
        for path in sorted((folder / part).glob("*.jsonl"))
    }
    result["definitions"] = definitions(folder, manifest) | frames(folder)
    result["texts"] = texts(folder, manifest)
    target = HOME / "bench" / "results" / f"detection-{result['date']}.json"
    target.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: value for key, value in result.items() if key != "data"}, indent=1))
    print(f"written to {target.relative_to(HOME)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
