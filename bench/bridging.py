"""What crossing the eras costs: ``python bench/bridging.py [--rounds 7] [--calls 20000] [--parks 1000] [--smoke]``.

CPU: the same worker serves the same calls once passed through and once translated, in shuffled rounds; what counts is the
difference within a round, of the worker's own CPU time. Memory: so many calls are parked at a server of the older era whose
question no client answers, and the worker's resident memory is divided by them.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import contenders as c
import measure as m
import soak
from run import CONNECTIONS, RESULTS, machine, tell

CELLS = {
    # cell: (era of the client, server that passes it through, server that does not speak it)
    "A, legacy client at a modern server": ("legacy", "both", "modern"),
    "B, modern client at a legacy server": ("modern", "both", "legacy"),
}
TARGET_US, TARGET_KB = 15.0, 20.0
USERS, EACH = 20, 50  # whose calls are parked; a principal may have 64 of them
PARK_SERVER = soak.HERE.with_name("soak_cancel_upstream.py")


class Bridge(c.Doorward):
    """One Doorward before one server that speaks both eras, or at two of its paths only one."""

    name = "doorward bridge"

    def command(self) -> list[str]:
        given = super().command()
        path = self.folder / "doorward.toml"
        text = path.read_text().replace('servers = ["bench"]', 'servers = ["*"]')
        text = (
            text.partition("[servers.bench]")[0]
            + text.partition("[limits]")[1]
            + text.partition("[limits]")[2]
        )
        for server, place in (("both", ""), ("legacy", "/legacy"), ("modern", "/modern")):
            text += f'[servers.{server}]\nurl = "http://127.0.0.1:{self.upstream_port}{place}/mcp"\n'
        path.write_text(text)
        return given

    def started(self) -> None:
        """Roads have headers of their own."""

    def cpu(self) -> float:
        return sum(_own_seconds(pid) for pid in self.worker_pids())


class Road(Bridge):
    """The way through a started Bridge to one server."""

    def __init__(self, bridge: Bridge, server: str) -> None:
        self.port, self.folder, self.process = bridge.port, bridge.folder, bridge.process
        self.name = server
        self.path = self.stream_path = f"/{server}/mcp"
        command = [
            "token",
            "--config",
            str(self.folder / "doorward.toml"),
            "--user",
            "bench",
            "--server",
            server,
        ]
        said = subprocess.run(
            [*c._DOORWARD, *command, "--ttl-seconds", "86400"], capture_output=True, text=True, check=False
        )
        if said.returncode:
            raise SystemExit(said.stderr)
        self.headers = self.folder / f"headers-{server}.txt"
        self.headers.write_text(f"Authorization: Bearer {said.stdout.strip()}\r\n", newline="")


def _own_seconds(pid: int) -> float:
    """User and system time of one process, with all its threads."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def crossing(rounds: int, calls: int) -> dict[str, Any]:
    """CPU of the worker per call, passed through and translated."""
    upstream = c.Upstream()
    upstream.start()
    bridge = Bridge(upstream.port)
    bridge.start()
    try:
        found = {}
        for cell, (era, through, across) in CELLS.items():
            tell(cell)
            roads = [("passed through", Road(bridge, through), {}), ("translated", Road(bridge, across), {})]
            common = {"connections": CONNECTIONS, "bytes": 1024, "shape": "json500", "era": era}
            for _, road, _ in roads:  # warm
                m.run_load(road, upstream, calls=max(200, calls // 5), **common)
            results = m.paired_rounds(roads, upstream, rounds, calls, tell=tell, **common)
            pairs = zip(results["translated"], results["passed through"], strict=True)
            found[cell] = {
                name: m.spread([one["cpu_us"] for one in rows]) for name, rows in results.items()
            } | {"added_us": m.spread([one["cpu_us"] - other["cpu_us"] for one, other in pairs])}
            tell(f"  = added {found[cell]['added_us']}")
    finally:
        bridge.stop()
        upstream.stop()
    tell(f"  ledger: {bridge.verify()}")
    return found


async def _park(gate: soak.Doorward, user: str, number: int) -> None:
    """One call that ends in the server's question; its client does not come back."""
    async with soak.Client(gate, "old", user) as client:
        meta = {
            "io.modelcontextprotocol/protocolVersion": soak.MODERN,
            "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}},
        }
        given = {"nonce": f"{user}-{number}", "ms": 0}
        params = {"name": "ask", "arguments": given, "_meta": meta}
        message = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}
        client.write(
            "POST", message, MCP_Protocol_Version=soak.MODERN, Mcp_Method="tools/call", Mcp_Name="ask"
        )
        status, _, answer = await client.read()
        if status != 200 or answer.get("result", {}).get("resultType") != "input_required":
            raise m.Void(f"a call was not parked: {status} {answer}")


async def _park_all(gate: soak.Doorward, users: range, each: int) -> None:
    for number in range(each):
        await asyncio.gather(*(_park(gate, f"parker-{user}", number) for user in users))


def _worker_bytes(gate: soak.Doorward) -> int:
    return sum(one["rss_kb"] for one in soak.look(gate)["workers"]) * 1024


def parking(parks: int) -> dict[str, Any]:
    """Resident memory of the worker for each parked call, with its connection to the server and its sealed place."""
    port = soak.free_port()
    server = subprocess.Popen([sys.executable, str(PARK_SERVER), str(port), "legacy"])
    users = max(1, min(USERS, parks // EACH))
    each = parks // users
    table = f'[servers.old]\nurl = "http://127.0.0.1:{port}/mcp"\nallow_requests = ["elicitation"]\n'
    try:
        with tempfile.TemporaryDirectory(prefix="doorward-parks-") as folder:
            gate = soak.Doorward(Path(folder), table, workers=1)
            try:
                # What every later one shares is brought by as many of other principals.
                asyncio.run(_park_all(gate, range(100, 100 + max(1, users // 5)), each))
                time.sleep(1.5)
                before, there = _worker_bytes(gate), _parked(gate)
                asyncio.run(_park_all(gate, range(users), each))
                time.sleep(1.5)
                after, now = _worker_bytes(gate), _parked(gate)
            finally:
                gate.stop()
    finally:
        server.kill()
        server.wait()
    if now - there != users * each:
        raise m.Void(f"{users * each} calls were parked, Doorward knows of {now - there}")
    return {
        "calls": users * each,
        "principals": users,
        "rss_kb_each": (after - before) / 1024 / (users * each),
    }


def _parked(gate: soak.Doorward) -> int:
    from soak_cancel import gauges

    return gauges(gate)["parked_calls"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--parks", type=int, default=USERS * EACH)
    parser.add_argument("--smoke", action="store_true", help="short, and nothing is written")
    given = parser.parse_args()
    if given.smoke:
        given.rounds, given.calls, given.parks = 2, 400, 40
    c.build()
    result: dict[str, Any] = {"machine": machine()}
    result["parked"] = parking(given.parks)
    tell(f"parked: {result['parked']}")
    result["cells"] = crossing(given.rounds, given.calls)
    result["machine"]["idle"] = m.spread(m.IDLE)
    for cell, row in result["cells"].items():
        verdict = "met" if row["added_us"]["median"] <= TARGET_US else "missed"
        tell(f"{cell}: {row['added_us']['median']:.1f} us added, target {TARGET_US:.0f}: {verdict}")
    each = result["parked"]["rss_kb_each"]
    tell(f"a parked call: {each:.1f} KB, target {TARGET_KB:.0f}: {'met' if each < TARGET_KB else 'missed'}")
    if not given.smoke:
        path = RESULTS / f"bridging-{datetime.datetime.now(datetime.UTC):%Y-%m-%d}.json"
        path.write_text(json.dumps(result, indent=1) + "\n")
        tell(f"written to {path}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except m.Void as error:
        sys.exit(f"VOID: {error}")
