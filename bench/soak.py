"""Connect, call and leave a hundred thousand times, and start a thousand server processes: nothing may be left behind.

    python bench/soak.py [--cycles 100000] [--starts 1000] [--cancels 10000] [--out FOLDER]

Runs a real `doorward serve` before a small HTTP server and a small stdio server in the cage. After a warm-up the number of
processes and descriptors and the memory of the supervisor and the workers have to stay where they are, or the exit
status is 1. Clients do what clients do: finish, break off in the middle, end their sessions, or forget to.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Self

HERE = Path(__file__).resolve()
MODERN, LEGACY = "2026-07-28", "2025-11-25"
CONCURRENT = 16
STARTING = 4
PRINCIPALS = 20
ROUNDS = 10  # of each phase; memory is compared from the third on
RSS_SLACK_KB = 6_144  # what an allocator may keep: the growth of a worker from the third round to the last
FILLING_CYCLES, FILLING_KB = (
    60_000,
    16_384,
)  # in a shorter run the memo of heads (8 MB at most) is still filling
PATIENCE = 60.0
STDIO_SERVER = """
import json, sys
for line in sys.stdin:
    asked = json.loads(line)
    if "id" not in asked:
        continue
    method, params = asked.get("method"), asked.get("params") or {}
    if method == "initialize":
        result = {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}},
                  "serverInfo": {"name": "soak", "version": "1"}}
    elif method == "tools/list":
        result = {"tools": [{"name": "echo", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": True}}]}
    elif method == "tools/call":
        result = {"content": [{"type": "text", "text": json.dumps(params.get("arguments"))}]}
    else:
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "error": {"code": -32601, "message": "no"}}), flush=True)
        continue
    print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}), flush=True)
"""


def tell(text: str) -> None:
    print(f"{datetime.datetime.now():%H:%M:%S} {text}", flush=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# -- Doorward --------------------------------------------------------------------------------------------------------


class Doorward:
    """A gateway in a folder of its own."""

    def __init__(self, folder: Path, servers: str, workers: int = 2) -> None:
        """``servers``: their tables as they stand in the settings file."""
        self.port, self.admin_port = free_port(), free_port()
        self.host = f"127.0.0.1:{self.port}"
        self.config = folder / "doorward.toml"
        self.log = folder / "log"
        self.config.write_text(
            f"""[gateway]
listen = "{self.host}"
public_url = "http://{self.host}"
data_dir = "./data"
workers = {workers}
[admin]
listen = "127.0.0.1:{self.admin_port}"
[limits]
calls = 2000
per_seconds = 1
concurrent = 1000
{servers}"""
        )
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(Path(sys.executable).parent / "doorward"), "serve", "--config", str(self.config)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, env=environment, start_new_session=True,
            )  # fmt: skip
        self.tokens: dict[tuple[str, str], str] = {}
        self._wait()
        from doorward.settings import load

        self.settings = load(self.config).settings

    def _wait(self) -> None:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise SystemExit(f"doorward serve ended:\n{self.log.read_text()[-2000:]}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as wire:
                wire.sendall(
                    f"GET /readyz HTTP/1.1\r\nHost: {self.host}\r\nConnection: close\r\n\r\n".encode()
                )
                if b" 200 " in wire.recv(100):
                    return
            time.sleep(0.05)
        raise SystemExit("doorward serve did not become ready")

    def token(self, user: str, server: str) -> str:
        from doorward.cli.token import mint_token

        key = (user, server)
        if key not in self.tokens:
            self.tokens[key] = mint_token(
                self.settings, user=user, server=server, ttl_seconds=3_600
            ).access_token
        return self.tokens[key]

    def stop(self) -> list[int]:
        """End it. Returns the processes that are left, none if all is well."""
        below = tree(self.process.pid)[1:]
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(PATIENCE)
        time.sleep(0.5)
        return [pid for pid in below if Path(f"/proc/{pid}").exists() and state(pid) != "Z"]


def servers_of(folder: Path, upstream_port: int) -> str:
    """The HTTP server, and the small stdio server in a file of its own."""
    script = folder / "server.py"
    script.write_text(STDIO_SERVER)
    command = [sys.executable, str(script)]
    return f'[servers.web]\nurl = "http://127.0.0.1:{upstream_port}/mcp"\n[servers.caged]\ncommand = {json.dumps(command)}\n'


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def tree(pid: int) -> list[int]:
    """A process and all below it, without what has ended."""
    parents: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z":
                parents.setdefault(int(fields[1]), []).append(int(name))
    found = [pid]
    for one in found:
        found.extend(parents.get(one, []))
    return found


def look(gate: Doorward) -> dict[str, Any]:
    """Processes below the supervisor; descriptors and memory of the supervisor and each worker."""
    pids = tree(gate.process.pid)
    own = [pids[0]]
    for pid in pids[1:]:
        with contextlib.suppress(OSError):
            if b"doorward.app.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                own.append(pid)
    rows = []
    for pid in own:
        status = Path(f"/proc/{pid}/status").read_text()
        rss = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
        rows.append({"rss_kb": rss, "descriptors": len(os.listdir(f"/proc/{pid}/fd"))})
    return {"processes": len(pids), "supervisor": rows[0], "workers": rows[1:]}


# -- clients ---------------------------------------------------------------------------------------------------------


class Client:
    """One connection."""

    def __init__(self, gate: Doorward, server: str, user: str) -> None:
        self.gate, self.server = gate, server
        self.token = gate.token(user, server)
        self.session = ""

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.gate.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    def write(self, verb: str, message: Any = None, **fields: str) -> None:
        body = b"" if message is None else json.dumps(message).encode()
        lines = {"Host": self.gate.host, "Authorization": f"Bearer {self.token}", "Accept": "application/json, text/event-stream"}  # fmt: skip
        if body:
            lines |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
        if self.session:
            lines |= {"Mcp-Session-Id": self.session, "MCP-Protocol-Version": LEGACY}
        lines |= {name.replace("_", "-"): value for name, value in fields.items()}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self.writer.write(f"{verb} /{self.server}/mcp HTTP/1.1\r\n{head}\r\n".encode() + body)

    async def head(self) -> tuple[int, dict[str, str]]:
        block = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), PATIENCE)).decode("latin-1")
        lines = block.split("\r\n")
        fields = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
        }
        return int(lines[0].split(" ")[1]), fields

    async def read(self) -> tuple[int, dict[str, str], Any]:
        status, fields = await self.head()
        body = await asyncio.wait_for(self.reader.readexactly(int(fields.get("content-length", 0))), PATIENCE)
        return status, fields, json.loads(body) if body else None

    def modern(self, tool: str, number: int) -> None:
        meta = {
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientCapabilities": {},
        }
        params = {"name": tool, "arguments": {"n": number}, "_meta": meta}
        message = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}
        self.write("POST", message, MCP_Protocol_Version=MODERN, Mcp_Method="tools/call", Mcp_Name=tool)

    def legacy(self, method: str, params: Any = None, number: int | None = 1) -> None:
        message = {"jsonrpc": "2.0", "method": method, "params": params or {}}
        self.write("POST", message if number is None else {**message, "id": number})

    async def open(self) -> None:
        params = {
            "protocolVersion": LEGACY,
            "capabilities": {},
            "clientInfo": {"name": "soak", "version": "1"},
        }
        self.legacy("initialize", params, 0)
        status, fields, answer = await self.read()
        if status != 200 or "result" not in answer:
            raise SystemExit(f"initialize: {status} {answer}")
        self.session = fields["mcp-session-id"]
        self.legacy("notifications/initialized", number=None)
        status, _, _ = await self.read()
        assert status == 202, status

    async def answered(self, number: int) -> None:
        status, _, answer = await self.read()
        if (
            status != 200
            or answer["id"] != number
            or json.loads(answer["result"]["content"][0]["text"]) != {"n": number}
        ):
            raise SystemExit(f"call {number}: {status} {answer}")


async def cycle(gate: Doorward, number: int) -> None:
    """One client comes, calls and leaves: every 8th in a session, every 9th breaks off, every 40th forgets its session."""
    kind = (
        "forget"
        if number % 40 == 0
        else "session"
        if number % 8 == 0
        else "leave"
        if number % 9 == 0
        else "call"
    )
    user = f"forgetful-{number % 2}" if kind == "forget" else f"user-{number % PRINCIPALS}"
    async with Client(gate, "web", user) as client:
        if kind == "call":
            client.modern("echo", number)
            return await client.answered(number)
        if kind == "leave":
            client.modern("slow", number)
            await asyncio.sleep(0.001 * (number % 20))
            client.writer.transport.abort()
            return None
        await client.open()
        client.legacy("tools/call", {"name": "echo", "arguments": {"n": number}}, number)
        await client.answered(number)
        if kind == "forget":
            return None
        if number % 16 == 0:
            async with Client(gate, "web", user) as listener:
                listener.session = client.session
                listener.write("GET", Accept="text/event-stream")
                status, _ = await listener.head()
                assert status == 200, status
        client.write("DELETE")
        status, _, _ = await client.read()
        assert status == 200, status
        return None


async def start(gate: Doorward, number: int) -> None:
    """One principal opens a session on the stdio server, which starts a process of its own, calls and leaves."""
    async with Client(gate, "caged", f"starter-{number}") as client:
        await client.open()
        client.legacy("tools/call", {"name": "echo", "arguments": {"n": number}}, number)
        await client.answered(number)
        client.write("DELETE")
        status, _, _ = await client.read()
        assert status == 200, status


async def phase(
    gate: Doorward, name: str, total: int, at_once: int, job: Any, rounds: list[dict[str, Any]]
) -> None:
    """Run a job ``total`` times in rounds, and look at everything after each, when all clients have left."""
    for count in range(1, ROUNDS + 1):
        until = total * count // ROUNDS
        numbers = iter(range(total * (count - 1) // ROUNDS + 1, until + 1))
        began = time.monotonic()

        async def work(numbers: Any = numbers) -> None:
            for number in numbers:
                await job(gate, number)

        results = await asyncio.gather(*(work() for _ in range(at_once)), return_exceptions=True)
        for one in results:
            if isinstance(one, BaseException):
                raise one
        await asyncio.sleep(1.0)
        seen = {
            "phase": name,
            "done": until,
            "seconds": round(time.monotonic() - began - 1.0, 2),
            **look(gate),
        }
        rounds.append(seen)
        workers = ", ".join(f"{row['rss_kb'] // 1024} MB/{row['descriptors']} fd" for row in seen["workers"])
        tell(f"{name} {until}/{total}: {seen['processes']} processes, supervisor {seen['supervisor']['rss_kb'] // 1024} MB/"
             f"{seen['supervisor']['descriptors']} fd, workers {workers}, {seen['seconds']} s")  # fmt: skip


def judge(
    rounds: list[dict[str, Any]], slack_kb: int, *, is_full: bool, processes_per_start: float
) -> list[str]:
    """What did not stay where it was, in words."""
    found: list[str] = []
    steady = rounds[2:] if len(rounds) > 3 else rounds
    first, last, name = steady[0], steady[-1], rounds[0]["phase"]
    if name == "cycles" and len({one["processes"] for one in rounds}) != 1:
        found.append(f"{name}: processes went from {rounds[0]['processes']} to {last['processes']}")
    if (
        is_full
        and abs(last["processes"] - rounds[ROUNDS // 2]["processes"]) > processes_per_start * STARTING + 2
    ):
        found.append(f"{name}: processes went from {rounds[ROUNDS // 2]['processes']} to {last['processes']}")
    compared = [("supervisor", first["supervisor"], last["supervisor"])]
    compared += [
        (f"worker {n}", a, b) for n, (a, b) in enumerate(zip(first["workers"], last["workers"], strict=True))
    ]
    for who, before, after in compared:
        grown = after["rss_kb"] - before["rss_kb"]
        if grown > slack_kb:
            found.append(f"{name}: {who} grew by {grown} KB")
        more = after["descriptors"] - before["descriptors"]
        # A process of a stdio server costs the supervisor three pipes and a watch; kept connections cost workers some.
        allowed = (
            CONCURRENT + 8 + (4 * (last["processes"] - first["processes"]) if who == "supervisor" else 0)
        )
        if more > allowed:
            found.append(f"{name}: {who} has {more} more descriptors")
    return found


async def soak(gate: Doorward, cycles: int, starts: int) -> tuple[list[dict[str, Any]], list[str]]:
    rounds: list[dict[str, Any]] = []
    faults: list[str] = []
    if cycles:
        await phase(gate, "cycles", cycles, CONCURRENT, cycle, rounds)
        faults += judge(
            rounds,
            RSS_SLACK_KB if cycles >= FILLING_CYCLES else FILLING_KB,
            is_full=False,
            processes_per_start=0,
        )
    if starts:
        before = look(gate)["processes"]
        later: list[dict[str, Any]] = []
        await phase(gate, "starts", starts, STARTING, start, later)
        each = (later[0]["processes"] - before) / max(later[0]["done"], 1)
        faults += judge(later, FILLING_KB, is_full=starts >= 600, processes_per_start=each)
        rounds += later
    return rounds, faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cycles", type=int, default=100_000)
    parser.add_argument("--starts", type=int, default=1_000)
    parser.add_argument("--cancels", type=int, default=10_000, help="of SDK clients; see soak_cancel.py")
    parser.add_argument("--out", type=Path, default=HERE.parent / "results")
    given = parser.parse_args()
    port = free_port()
    upstream = subprocess.Popen([sys.executable, str(HERE.with_name("soak_upstream.py")), str(port)])
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="doorward-soak-") as folder:
            gate = Doorward(Path(folder), servers_of(Path(folder), port))
            try:
                rounds, faults = asyncio.run(soak(gate, given.cycles, given.starts))
            finally:
                left = gate.stop()
            if left:
                faults.append(f"{len(left)} processes are left")
            verify = [
                str(Path(sys.executable).parent / "doorward"),
                "audit",
                "verify",
                "--config",
                str(gate.config),
            ]
            if subprocess.run(verify, capture_output=True, check=False).returncode:
                faults.append("the ledger does not verify")
    finally:
        upstream.kill()
        upstream.wait()
    today = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    result = {
        "date": today, "machine": f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}",
        "cycles": given.cycles, "starts": given.starts, "seconds": round(time.monotonic() - began),
        "flat": not faults, "faults": faults, "rounds": rounds,
    }  # fmt: skip
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / f"soak-{today}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    for fault in faults:
        tell(f"NOT FLAT: {fault}")
    tell(f"{'flat' if not faults else 'not flat'}; written to {path}")
    if given.cancels:
        from soak_cancel import soak_cancels

        faults += soak_cancels(given.cancels, 1, 330.0, given.out)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
