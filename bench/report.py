"""Results as Markdown tables."""

from __future__ import annotations

from typing import Any


def _span(spread: dict[str, float], digits: int = 1) -> str:
    return f"{spread['median']:.{digits}f} [{spread['min']:.{digits}f}-{spread['max']:.{digits}f}]"


def _cpu(results: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    for title, axis in results.get("cpu", {}).items():
        base = next(
            (name for name, row in axis["rows"].items() if row.get("ratio", {}).get("max") == 1.0), ""
        )
        lines += [
            f"### {title}",
            "",
            f"| | CPU us per call | times {base or 'the base'}, same round | calls | refused as they must | records |",
            "|---|---|---|---|---|---|",
        ]
        for name, row in axis["rows"].items():
            ratio = _span(row["ratio"], 2) if "ratio" in row else "-"
            lines.append(
                f"| {name} | {_span(row['cpu_us'])} | {ratio} | {row['calls']} | {row['refused'] or '-'} | {row['records'] or '-'} |"
            )
        lines.append("")
    return lines


def _latency(results: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    for title, rows in results.get("latency", {}).items():
        lines += [
            f"### Latency at {title}, from the time a call was due",
            "",
            "| | p50 us | p99 us | added p50 us | added p99 us |",
            "|---|---|---|---|---|",
        ]
        for name, row in rows.items():
            spans = [_span(row[key], 0) for key in ("p50_us", "p99_us", "added_p50_us", "added_p99_us")]
            lines.append(f"| {name} | " + " | ".join(spans) + " |")
        lines.append("")
    if "fdatasync_us" in results:
        disk = results["fdatasync_us"]
        lines += [
            f"The disk's own fdatasync of 4 KB: p50 {disk['p50_us']:.0f} us, p99 {disk['p99_us']:.0f} us.",
            "",
        ]
    return lines


def markdown(results: dict[str, Any]) -> str:
    """The whole report."""
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        f"# Bench of {machine['date'][:10]}",
        "",
        f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}, Python {machine['python']}; commit {machine['commit']}.",
        f"{versions}. Load average at the start: {machine['load_average'][0]:.1f}.",
        f"Idle share of the machine before each round, when nothing of ours ran: {_span(machine['idle'], 2)}.",
        "Where it is far from 1, others worked here too: ratios of CPU hold, latencies and rates do not.",
        "Median [min-max] over the rounds; ratios are taken within a round. Server on core 0, generator and upstream on core 1.",
        "",
        *_cpu(results),
        *_latency(results),
    ]
    if "streams" in results:
        lines += ["### Silent streams", "", "| | streams | KB of memory for each |", "|---|---|---|"]
        lines += [
            f"| {name} | {row['streams']} | {row['rss_kb_per_stream']:.1f} |"
            for name, row in results["streams"].items()
        ]
        lines.append("")
    if "cold" in results:
        lines += [
            "### Cold: the first 1,000 calls of a process",
            "",
            "| | CPU us per call | times nginx |",
            "|---|---|---|",
        ]
        for name, row in results["cold"].items():
            lines.append(
                f"| {name} | {_span(row['cpu_us'])} | {_span(row['ratio'], 2) if 'ratio' in row else '-'} |"
            )
        lines.append("")
    if "ledgers" in results:
        lines += [
            "### Ledgers, verified byte for byte after the runs",
            "",
            *[f"* {line}" for line in results["ledgers"]],
            "",
        ]
    return "\n".join(lines)
