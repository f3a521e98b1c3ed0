"""The real thing: `doorward serve` in processes of its own, real sockets before and behind it, its ledger read back."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from doorward.adapters.ledger_read import LedgerReader, Question
from doorward.cli.token import mint_token
from doorward.settings import load
from tests.ports import free_port
from tests.stack.wire import PATIENCE, Answer, Events, Wire, until
from tests.stand_ins.http_server import HttpUpstream

MODERN, LEGACY = "2026-07-28", "2025-11-25"
BOTH_TYPES = "application/json, text/event-stream"
DOORWARD = [str(Path(sys.executable).parent / "doorward")]


def processes() -> dict[int, tuple[int, str]]:
    """All processes: pid -> (parent, command line)."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                stat = Path(f"/proc/{name}/stat").read_text()
                command = (
                    Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
            except OSError:
                continue
            state, parent = stat.rpartition(")")[2].split()[:2]
            if state != "Z":
                found[int(name)] = (int(parent), command)
    return found


def descendants(pid: int) -> list[int]:
    """Living children of a process, and theirs."""
    table = processes()
    found, grown = {pid}, True
    while grown:
        more = {one for one, (parent, _) in table.items() if parent in found} - found
        grown = bool(more)
        found |= more
    return sorted(found - {pid})


_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def _end_with_parent() -> None:
    """Runs in the child: a test run that is killed leaves no gateway behind."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def toml_of(value: Any) -> str:
    """A Python value as TOML on one line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {toml_of(one)}" for key, one in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml_of(one) for one in value) + "]"
    return json.dumps(value)


class Stack:
    """One Doorward before stand-ins. ``tables`` are settings tables such as {"limits": {"calls": 5}}."""

    def __init__(
        self,
        folder: Path,
        servers: dict[str, HttpUpstream | dict[str, Any]],
        *,
        workers: int = 1,
        tables: dict[str, dict[str, Any]] | None = None,
        off: tuple[str, ...] = (),
        environment: dict[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.tls = tls  # how to speak to it, where its listener speaks TLS
        self.folder = folder
        self.servers = servers
        self.workers = workers
        self.off = off
        self.tables = tables or {}
        self.port, self.admin_port = free_port(), free_port()
        self.host = f"127.0.0.1:{self.port}"
        self.url = f"{'https' if tls else 'http'}://{self.host}"
        self.config = folder / "doorward.toml"
        self.data_dir = folder / "data"
        self.log_path = folder / "log"
        self.process: subprocess.Popen[bytes] | None = None
        self.patience = (
            PATIENCE  # seconds that ``ask`` waits; real servers take longer to start than stand-ins
        )
        self._environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **(environment or {})}
        if off:
            self._environment["DOORWARD_LAB"] = "1"
        self._tokens: dict[tuple[Any, ...], str] = {}
        self._lock = threading.Lock()

    # -- settings -----------------------------------------------------------------------------------------------

    def settings_text(self, **extra: dict[str, Any]) -> str:
        """The settings file; ``extra`` tables are merged over the stack's own."""
        tables: dict[str, dict[str, Any]] = {
            "gateway": {
                "listen": self.host,
                "public_url": self.url,
                "data_dir": "./data",
                "workers": self.workers,
                "profile": "lab" if self.off else "local",
            },
            "admin": {"listen": f"127.0.0.1:{self.admin_port}"},
            "limits": {"calls": 100_000},
        }
        for name, server in self.servers.items():
            tables[f"servers.{name}"] = (
                {"url": server.url} if isinstance(server, HttpUpstream) else dict(server)
            )
        for slug in self.off:
            tables[f"controls.{slug}"] = {"mode": "off"}
        for more in (self.tables, extra):
            for name, table in more.items():
                tables[name] = {**tables.get(name, {}), **table}
        lines = []
        for name, table in tables.items():
            lines.append(f"[{name}]")
            lines += [f"{json.dumps(key)} = {toml_of(value)}" for key, value in table.items()]
        return "\n".join(lines) + "\n"

    def write_settings(self, text: str | None = None) -> None:
        """Put the settings file in place, whole."""
        fresh = self.config.with_suffix(".new")
        fresh.write_text(self.settings_text() if text is None else text)
        fresh.rename(self.config)

    # -- life ---------------------------------------------------------------------------------------------------

    def launch(self) -> subprocess.Popen[bytes]:
        """Start `doorward serve` and do not wait."""
        log = self.log_path.open("ab")
        process = subprocess.Popen(
            [*DOORWARD, "serve", "--config", str(self.config)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=self.folder,
            env=self._environment,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
        log.close()
        return process

    def start(self) -> Stack:
        """Start and wait until it is ready."""
        if not self.config.exists():
            self.write_settings()
        said = len(self.log())
        self.process = process = self.launch()

        def ready() -> bool:
            assert process.poll() is None, f"serve ended with {process.returncode}:\n{self.log()}"
            # One worker answers /readyz before the others listen; the line comes when all do.
            return "Doorward is ready" in self.log()[said:] and self.is_ready()

        try:
            until(ready, "readyz")
        except AssertionError:
            self.stop(signal.SIGKILL)
            raise
        return self

    def is_ready(self) -> bool:
        """Whether /readyz says so."""
        try:
            with self.wire(seconds=2.0) as wire:
                wire.send(f"GET /readyz HTTP/1.1\r\nHost: {self.host}\r\nConnection: close\r\n\r\n".encode())
                return wire.read().status == 200
        except OSError:
            return False

    def pids(self) -> list[int]:
        """The workers and everything else below the supervisor."""
        return [] if self.process is None else descendants(self.process.pid)

    def worker_pids(self) -> list[int]:
        """The workers."""
        table = processes()
        return [pid for pid in self.pids() if "doorward.app.worker" in table.get(pid, (0, ""))[1]]

    def stop(self, with_signal: int = signal.SIGTERM) -> int:
        """End it; no process of it may be left. Returns the exit status."""
        process = self.process
        if process is None:
            return 0
        below = set(self.pids())
        if process.poll() is None:
            process.send_signal(with_signal)
        try:
            status = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"serve did not end:\n{self.log()[-4000:]}") from None
        self.process = None

        def left() -> bool:
            table = processes()
            return not [
                pid
                for pid in below
                if pid in table and ("doorward" in table[pid][1] or "bwrap" in table[pid][1])
            ]

        until(left, "the end of all processes of doorward serve")
        return status

    def log(self) -> str:
        """What it has written to stdout and stderr."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    # -- commands -----------------------------------------------------------------------------------------------

    def command(self, *words: str, timeout: float = 30.0) -> subprocess.CompletedProcess[str]:
        """Run a `doorward` command with this stack's settings."""
        return subprocess.run(
            [*DOORWARD, *words, "--config", str(self.config)],
            capture_output=True, text=True, timeout=timeout, cwd=self.folder, env=self._environment, check=False,
        )  # fmt: skip

    def token(
        self, server: str = "mcp", user: str = "alice", roles: tuple[str, ...] = (), *, fresh: bool = False
    ) -> str:
        """An access token, as `doorward token` prints it (tests/stack/test_serve.py runs the command itself)."""
        key = (server, user, roles)
        with self._lock:
            if fresh:
                key = (*key, len(self._tokens))
            if key not in self._tokens:
                with environment(DOORWARD_LAB="1") if self.off else environment():
                    settings = load(self.config).settings
                self._tokens[key] = mint_token(settings, user=user, server=server, roles=roles).access_token
            return self._tokens[key]

    def rows(self, **question: Any) -> list[dict[str, Any]]:
        """Rows of the ledger, newest first, as `doorward audit query --json` prints them."""
        return list(LedgerReader(self.data_dir).rows(Question(**{"limit": 0, **question})))

    def row_of(self, answer: Answer) -> dict[str, Any]:
        """The ledger's row for a refusal, by the event id in the answer."""
        event = answer.json["error"]["data"]["event"]
        return until(lambda: next(iter(self.rows(event=event)), None), f"event {event} on record")

    # -- talking ------------------------------------------------------------------------------------------------

    def wire(self, seconds: float = PATIENCE) -> Wire:
        """A connection to the data plane."""
        return Wire(self.port, seconds=seconds, tls=self.tls)

    def path(self, server: str) -> str:
        """The endpoint of a server; "" is the federated one."""
        return f"/{server}/mcp" if server else "/mcp"

    def request(
        self, server: str = "", body: Any = None, *, verb: str = "POST", path: str = "", **fields: Any
    ) -> bytes:
        """The bytes of a request. Fields are named with underscores; None leaves one out, a list repeats it."""
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        user = fields.pop("user", "alice")
        given = {name.replace("_", "-").lower(): value for name, value in fields.items()}
        lines: dict[str, Any] = {"host": self.host, "accept": BOTH_TYPES}
        if "authorization" not in given and "check-token" not in self.off:
            lines["authorization"] = f"Bearer {self.token(server or 'mcp', user)}"
        if verb == "POST":
            lines["content-type"] = "application/json"
            lines["content-length"] = str(len(raw))
        lines.update(given)
        text = f"{verb} {path or self.path(server)} HTTP/1.1\r\n"
        for name, value in lines.items():
            for one in value if isinstance(value, list) else [value]:
                if one is not None:
                    text += f"{name}: {one}\r\n"
        return text.encode("latin-1") + b"\r\n" + raw

    def ask(self, server: str = "", body: Any = None, *, verb: str = "POST", **fields: Any) -> Answer:
        """One request on a connection of its own, and its answer."""
        with self.wire(seconds=self.patience) as wire:
            wire.send(self.request(server, body, verb=verb, connection="close", **fields))
            return wire.read(verb)

    def events(self, server: str = "", body: Any = None, *, verb: str = "POST", **fields: Any) -> Events:
        """Open an event stream."""
        wire = self.wire()
        wire.send(self.request(server, body, verb=verb, **fields))
        try:
            status, lines = wire.read_head()
            kind = {name.lower(): value for name, value in lines}.get("content-type", "")
            good = status == 200 and kind.startswith("text/event-stream")
            assert good, (status, lines, b"".join(wire.parts()))
        except BaseException:
            wire.close()
            raise
        return Events(wire)

    def wait_admin(self) -> None:
        """Wait until the admin plane listens, which it does a moment after the data plane."""

        def listens() -> bool:
            for place in (str(self.data_dir / "admin.sock"), self.admin_port):
                try:
                    Wire(place, seconds=2.0).close()
                except OSError:
                    return False
            return True

        until(listens, "the admin plane")

    def admin(self, path: str, body: Any = None) -> Answer:
        """One request to the admin plane over its socket in the data folder."""
        raw = b"" if body is None else json.dumps(body).encode()
        kind = f"Content-Type: application/json\r\nContent-Length: {len(raw)}\r\n" if raw else ""
        verb = "POST" if raw else "GET"
        socket_path = self.data_dir / "admin.sock"
        self.wait_admin()
        with Wire(str(socket_path)) as wire:
            wire.send(
                f"{verb} {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n{kind}\r\n".encode() + raw
            )
            return wire.read()

    def raw(self, data: bytes) -> Answer:
        """Bytes as they are on a connection of their own, and the first answer."""
        with self.wire() as wire:
            wire.send(data)
            return wire.read()

    # -- the 2026 era -------------------------------------------------------------------------------------------

    def modern_message(
        self, method: str, params: dict[str, Any] | None = None, *, id: Any = 1, capabilities: Any = None
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """A message and the header fields that repeat it."""
        meta = {
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientCapabilities": capabilities or {},
        }
        params = {**(params or {}), "_meta": {**meta, **((params or {}).get("_meta") or {})}}
        fields = {"MCP_Protocol_Version": MODERN, "Mcp_Method": method}
        name = params.get("name") or params.get("uri")
        if isinstance(name, str) and name.isascii():
            fields["Mcp_Name"] = name
        return {"jsonrpc": "2.0", "id": id, "method": method, "params": params}, fields

    def modern(self, server: str, method: str, params: dict[str, Any] | None = None, **more: Any) -> Answer:
        """One request of the 2026 era."""
        body, fields = self.modern_message(
            method, params, id=more.pop("id", 1), capabilities=more.pop("capabilities", None)
        )
        return self.ask(server, body, **{**fields, **more})

    # -- the 2025 era -------------------------------------------------------------------------------------------

    def initialize(self, server: str, capabilities: Any = None, **fields: Any) -> Answer:
        """The first message of a session."""
        params = {
            "protocolVersion": LEGACY,
            "capabilities": capabilities or {},
            "clientInfo": {"name": "test", "version": "1"},
        }
        return self.ask(
            server, {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}, **fields
        )

    def session(self, server: str, capabilities: Any = None, **fields: Any) -> str:
        """Open a session; its id."""
        answer = self.initialize(server, capabilities, **fields)
        assert answer.status == 200 and "result" in answer.json, answer
        session = answer.fields["mcp-session-id"]
        done = self.legacy(server, session, "notifications/initialized", id=None, **fields)
        assert done.status == 202, done
        return session

    @staticmethod
    def legacy_message(method: str, params: Any = None, id: Any = 1) -> dict[str, Any]:
        """A message of the 2025 era."""
        message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
        if id is not None:
            message["id"] = id
        if params is not None:
            message["params"] = params
        return message

    def legacy(
        self, server: str, session: str | None, method: str, params: Any = None, *, id: Any = 1, **fields: Any
    ) -> Answer:
        """One message of the 2025 era."""
        fields = {"Mcp_Session_Id": session, "MCP_Protocol_Version": LEGACY, **fields}
        return self.ask(server, self.legacy_message(method, params, id), **fields)

    def call(
        self,
        era: str,
        server: str,
        tool: str = "echo",
        arguments: Any = None,
        *,
        session: str = "",
        **more: Any,
    ) -> Answer:
        """Call a tool in an era; in the older one in a session that is opened where none is given."""
        params = {"name": tool, "arguments": arguments or {}}
        if era == "modern":
            return self.modern(server, "tools/call", params, **more)
        keep = {name: more[name] for name in ("user", "Authorization") if name in more}
        return self.legacy(server, session or self.session(server, **keep), "tools/call", params, **more)


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Environment variables for a while."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def running(servers: dict[str, Any], **options: Any) -> Iterator[Stack]:
    """A started stack in a folder of its own; at the end nothing of it is left. Upstreams are closed with it."""
    with tempfile.TemporaryDirectory(prefix="doorward-stack-") as folder:
        stack = Stack(Path(folder), servers, **options)
        try:
            yield stack.start()
        finally:
            try:
                stack.stop()
            finally:
                for server in servers.values():
                    if isinstance(server, HttpUpstream):
                        server.close()


def at_once(count: int, job: Callable[[int], Any], seconds: float = PATIENCE * 2) -> list[Any]:
    """Run ``job(0..count-1)`` in threads that start together; results in order."""
    found: list[Any] = [None] * count
    gate = threading.Barrier(count)

    def run(index: int) -> None:
        gate.wait(PATIENCE)
        try:
            found[index] = job(index)
        except BaseException as error:  # noqa: BLE001 - handed to the test
            found[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds)
    for one in found:
        if isinstance(one, BaseException):
            raise one
    assert not any(thread.is_alive() for thread in threads), f"not done after {seconds} s"
    return found
