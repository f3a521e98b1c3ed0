"""Measure Doorward against nginx, Envoy and FastMCP's proxy: ``python bench/run.py [--smoke] [--only AXIS ...]``.

CPU per call, paired in shuffled rounds, is what counts: rates and latencies of a shared machine swing, ratios within a
round do not. A run in which an answer, a body at the upstream or the number of records is not what it must be is void
and ends everything. Results go to bench/results/.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import contenders as c
import measure as m
from report import markdown

RESULTS = c.REPO / "bench" / "results"
CONNECTIONS = 32


def tell(line: str) -> None:
    print(line, flush=True)


class Bench:
    """All contenders side by side, and the axes along which they are measured."""

    def __init__(self, rounds: int, calls: int) -> None:
        self.rounds = rounds
        self.calls = calls
        self.upstream = c.Upstream()
        self.running: dict[type[c.Contender], c.Contender] = {}
        self.results: dict[str, Any] = {}

    def get(self, kind: type[c.Contender]) -> c.Contender | None:
        """A running contender of this kind; None where it is not installed."""
        found = self.running.get(kind)
        if found is None:
            if getattr(kind, "program", lambda: "")() is None:
                tell(f"  SKIPPED: {kind.name} is not installed")
                return None
            found = kind(self.upstream.port)
            found.start()
            self.running[kind] = found
        return found

    def end(self, *kinds: type[c.Contender]) -> None:
        """Stop these contenders, or all; a Doorward's ledger is verified first."""
        for kind in kinds or list(self.running):
            one = self.running.pop(kind, None)
            if one is None:
                continue
            one.stop()
            if isinstance(one, c.Doorward):
                said = one.verify()
                tell(f"  {one.name}: {said}")
                self.results.setdefault("ledgers", []).append(f"{one.name}: {said}")

    def pick(
        self, *named: tuple[str, type[c.Contender], dict[str, Any]]
    ) -> list[tuple[str, c.Contender, dict[str, Any]]]:
        """Those of the named contenders that are installed, warmed up."""
        found = []
        for name, kind, options in named:
            one = self.get(kind)
            if one is not None:
                found.append((name, one, options))
        return found

    def compare(
        self, title: str, named: list[Any], *, calls: float = 1.0, base: str = "nginx", **options: Any
    ) -> None:
        """One axis of CPU per call."""
        tell(title)
        chosen = self.pick(*named)
        count = int(self.calls * calls)
        for _, contender, own in chosen:  # warm
            m.run_load(
                contender,
                self.upstream,
                calls=max(20, int(count * contender.calls_share / 5)),
                **{**options, **own},
            )
        results = m.paired_rounds(chosen, self.upstream, self.rounds, count, tell=tell, **options)
        self.results.setdefault("cpu", {})[title] = {"options": options, "rows": m.summary(results, base)}
        for name, row in self.results["cpu"][title]["rows"].items():
            tell(
                f"  = {name}: {row['cpu_us']['median']:.1f} us"
                + (f", {row['ratio']['median']:.2f} x" if "ratio" in row else "")
            )

    # -- axes -------------------------------------------------------------------------------------------------------

    def requests(self) -> None:
        """JSON calls of three sizes; the heads repeat, or differ in every request."""
        both = [
            ("nginx", c.Nginx, {}),
            ("doorward", c.Doorward, {}),
            ("doorward, no head seen twice", c.Doorward, {"vary": 1}),
        ]
        peers = [
            ("envoy", c.Envoy, {}),
            ("fastmcp shared client", c.FastMcp, {"refused": 0}),
            ("fastmcp default", c.FastMcpDefault, {"refused": 0}),
        ]
        common = {"connections": CONNECTIONS, "refused": 1, "shape": "json500"}
        traced = [("doorward, traceparent in each", c.Doorward, {"vary": 2})]
        self.compare("request 1 KB, JSON 0.5 KB", both + traced + peers, bytes=1024, **common)
        self.end(c.FastMcp, c.FastMcpDefault)
        self.compare("request 0.3 KB, JSON 0.5 KB", both + peers[:1], bytes=300, **common)
        self.compare("request 4 KB, JSON 0.5 KB", both + peers[:1], bytes=4096, **common)

    def results_axis(self) -> None:
        """Large results and one-event streams."""
        three = [("nginx", c.Nginx, {}), ("doorward", c.Doorward, {}), ("envoy", c.Envoy, {})]
        common = {"connections": CONNECTIONS, "refused": 1, "bytes": 1024}
        self.compare("request 1 KB, JSON 50 KB", three, calls=0.4, shape="json50k", **common)
        self.compare("request 1 KB, one-event SSE 0.5 KB", three, shape="sse", stream=True, **common)

    def eras(self) -> None:
        """The 2026 era, without sessions."""
        two = [("nginx", c.Nginx, {}), ("doorward", c.Doorward, {})]
        self.compare(
            "era 2026-07-28, request 1 KB, JSON 0.5 KB",
            two,
            connections=CONNECTIONS,
            refused=1,
            shape="json500",
            bytes=1024,
            era="modern",
        )

    def workers(self) -> None:
        """One worker and two, on the same core."""
        for era in ("legacy", "modern"):
            pair = [("doorward", c.Doorward, {}), ("doorward two workers", c.DoorwardTwo, {})]
            self.compare(
                f"two workers, {era} era",
                pair,
                base="doorward",
                connections=CONNECTIONS,
                refused=1,
                shape="json500",
                bytes=1024,
                era=era,
            )
        self.end(c.DoorwardTwo)

    def latency(self) -> None:
        """Open loop at a fixed rate."""
        named = [
            ("nginx", c.Nginx, {}),
            ("doorward", c.Doorward, {}),
            ("doorward, tool that writes", c.Doorward, {"tool": "note"}),
            ("doorward before-upstream", c.DoorwardSynced, {}),
        ]
        for rate in (1_000, 5_000):
            title = f"{rate} calls/s"
            tell("latency at " + title)
            chosen = [("direct", self.upstream, {}), *self.pick(*named)]
            results = m.paired_rounds(
                chosen,
                self.upstream,
                self.rounds,
                rate * 2,
                tell=tell,
                rate=rate,
                connections=64,
                bytes=1024,
                shape="json500",
            )
            self.results.setdefault("latency", {})[title] = m.added_latency(
                results, "nginx" if "nginx" in results else "direct"
            )
        self.results["fdatasync_us"] = fdatasync_us()
        self.end(c.DoorwardSynced)

    def memory(self) -> None:
        """Silent streams."""
        tell("silent streams")
        for kind in (c.Nginx, c.Doorward):
            self.end(kind)
            one = self.get(kind)
            if one is not None:
                self.results.setdefault("streams", {})[one.name] = m.stream_memory(one, self.upstream)
                tell(f"  = {one.name}: {self.results['streams'][one.name]}")

    def cold(self) -> None:
        """The first thousand calls of a process."""
        tell("cold")
        rows: dict[str, list[dict[str, Any]]] = {}
        for _ in range(3):
            for kind in (c.Nginx, c.Doorward):
                self.end(kind)
                one = self.get(kind)
                if one is not None:
                    rows.setdefault(one.name, []).append(
                        m.run_load(
                            one,
                            self.upstream,
                            calls=1_000,
                            connections=CONNECTIONS,
                            bytes=1024,
                            shape="json500",
                            refused=1,
                        )
                    )
        self.results["cold"] = m.summary(rows, "nginx")


AXES: dict[str, Callable[[Bench], None]] = {
    "requests": Bench.requests,
    "results": Bench.results_axis,
    "eras": Bench.eras,
    "workers": Bench.workers,
    "latency": Bench.latency,
    "memory": Bench.memory,
    "cold": Bench.cold,
}


def fdatasync_us() -> dict[str, float]:
    """What the disk itself takes to have 4 KB for good."""
    path = c.OUT / "fdatasync"
    took = []
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for _ in range(300):
        began = time.perf_counter()
        os.write(descriptor, b"x" * 4096)
        os.fdatasync(descriptor)
        took.append((time.perf_counter() - began) * 1e6)
    os.close(descriptor)
    path.unlink()
    took.sort()
    return {"p50_us": took[150], "p99_us": took[297]}


def machine() -> dict[str, Any]:
    """Where and with what this ran."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    nginx = c.Nginx.program()
    version = (
        subprocess.run([nginx, "-v"], capture_output=True, text=True).stderr.strip() if nginx else "absent"
    )
    from importlib.metadata import version as of

    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=c.REPO
    )
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": model,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": os.getloadavg(),
        "commit": commit.stdout.strip(),
        "versions": {
            "doorward": of("doorward"),
            "uvloop": of("uvloop"),
            "nginx": version,
            "envoy": c.ENVOY,
            "fastmcp": c.FASTMCP,
        },
    }


def smoke() -> int:
    """Correctness only: two short rounds, every check of the full bench, no number asserted."""
    bench = Bench(rounds=2, calls=800)
    bench.upstream.start()
    try:
        common = {"connections": 8, "refused": 1, "bytes": 1024}
        pair: list[Any] = [("nginx", c.Nginx, {}), ("doorward", c.Doorward, {})]
        bench.compare(
            "JSON",
            [*pair, ("doorward, no head seen twice", c.Doorward, {"vary": 1})],
            shape="json500",
            **common,
        )
        bench.compare("SSE", pair, shape="sse", stream=True, **common)
        bench.compare("2026 era", pair, shape="json4k", era="modern", **common)
        bench.compare("synced", pair[1:], calls=0.2, shape="json500", tool="note", **common)
        bench.compare("open loop", pair[1:], shape="json500", rate=1_000, **common)
    finally:
        bench.end()
        bench.upstream.stop()
    tell("smoke: every answer, body and record was right")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--only", nargs="*", choices=AXES, default=[])
    parser.add_argument("--no-write", action="store_true")
    given = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 20_000), hard))
    c.build()
    if given.smoke:
        return smoke()
    c.install_peers()
    bench = Bench(given.rounds, given.calls)
    bench.results["machine"] = machine()
    bench.upstream.start()
    try:
        for name in given.only or AXES:
            AXES[name](bench)
    finally:
        bench.end()
        bench.upstream.stop()
    bench.results["machine"]["idle"] = m.spread(m.IDLE or [0.0])
    text = markdown(bench.results)
    tell(text)
    if not given.no_write:
        RESULTS.mkdir(exist_ok=True)
        stem = bench.results["machine"]["date"][:10]
        (RESULTS / f"{stem}.json").write_text(json.dumps(bench.results, indent=1) + "\n")
        (RESULTS / f"{stem}.md").write_text(text)
        tell(f"written to bench/results/{stem}.json and .md")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except m.Void as error:
        sys.exit(f"VOID: {error}")
