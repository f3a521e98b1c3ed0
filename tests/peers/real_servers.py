"""Real servers, each with calls whose answers do not depend on where it runs; and a plain way to talk to them directly."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests.peers.places import node
from tests.stack.wire import PATIENCE

LEGACY, MODERN = "2025-11-25", "2026-07-28"
META = "io.modelcontextprotocol/"
START_SECONDS = 60.0
Calls = list[tuple[str, dict[str, Any]]]


class Real(NamedTuple):
    """A package; ``rest`` are its arguments and ``env`` its environment, made of a folder that it may write to."""

    package: str
    calls: Callable[[Path], Calls]
    rest: Callable[[Path], list[str]] = lambda folder: []
    env: Callable[[Path], dict[str, str]] = lambda folder: {}
    beside: tuple[str, ...] = ()  # packages to install with it
    is_modern: bool = False  # whether it speaks 2026-07-28 too

    @property
    def program(self) -> str:
        """The command that the package brings."""
        plain = self.package.partition(":")[2].rpartition("/")[2]
        name = plain.partition("==")[0].partition("@")[0]
        return name if name.startswith("mcp-") else f"mcp-{name}"


def _noon(folder: Path) -> Calls:
    zones = {"source_timezone": "Asia/Tokyo", "time": "12:00", "target_timezone": "Asia/Kolkata"}
    return [
        ("convert_time", zones),
        ("convert_time", {**zones, "time": "no time"}),
        ("get_current_time", {"timezone": "X/Y"}),
    ]


def _files(folder: Path) -> Calls:
    new = str(folder / "new.txt")
    return [
        ("list_directory", {"path": str(folder)}),
        ("write_file", {"path": new, "content": "ä\n" * 1_000}),
        ("read_text_file", {"path": new}),
        ("search_files", {"path": str(folder), "pattern": "*.txt"}),
        ("read_text_file", {"path": "/etc/passwd"}),
    ]


def _graph(folder: Path) -> Calls:
    entity = {"name": "Ada", "entityType": "person", "observations": ["wrote programs"]}
    return [
        ("create_entities", {"entities": [entity]}),
        ("search_nodes", {"query": "Ada"}),
        ("read_graph", {}),
    ]


def _tables(folder: Path) -> Calls:
    return [
        ("create_table", {"query": "CREATE TABLE t (a INTEGER, b TEXT)"}),
        ("write_query", {"query": "INSERT INTO t VALUES (1, 'ä'), (2, NULL)"}),
        ("read_query", {"query": "SELECT * FROM t ORDER BY a"}),
        ("list_tables", {}),
        ("read_query", {"query": "DROP TABLE t"}),
    ]


def _commits(folder: Path) -> Calls:
    at = {"repo_path": str(folder)}
    return [
        ("git_status", at),
        ("git_log", at),
        ("git_show", {**at, "revision": "HEAD"}),
        ("git_branch", {**at, "branch_type": "local"}),
    ]


REAL = {
    "time": Real(
        "pypi:mcp-server-time==2026.10.19", _noon, lambda folder: ["--local-timezone", "UTC"], is_modern=True
    ),
    "fetch": Real(
        "pypi:mcp-server-fetch==2026.10.24", lambda folder: [], is_modern=True
    ),  # its calls need the network
    "git": Real(
        "pypi:mcp-server-git==2026.10.19",
        _commits,
        lambda folder: ["--repository", str(folder)],
        is_modern=True,
    ),
    "sqlite": Real(
        "pypi:mcp-server-sqlite==2025.4.25",
        _tables,
        lambda folder: ["--db-path", str(folder / "x.db")],
        beside=("mcp==1.30.0",),  # it says `mcp`, any version, and was written for the first
    ),
    "calculator": Real(
        "pypi:mcp-server-calculator==0.2.1",
        lambda folder: [("calculate", {"expression": "2**61 - 1"}), ("calculate", {"expression": "1/0"})],
    ),
    "everything": Real(
        "npm:@modelcontextprotocol/server-everything@2026.8.31",
        lambda folder: [
            ("echo", {"message": "Zoë ✓"}),
            ("get-sum", {"a": 1.5, "b": 2}),
            ("get-tiny-image", {}),
            ("get-structured-content", {"location": "New York"}),
            ("get-annotated-message", {"messageType": "error", "includeImage": True}),
        ],
    ),
    "filesystem": Real(
        "npm:@modelcontextprotocol/server-filesystem@2026.8.31", _files, lambda folder: [str(folder)]
    ),
    "memory": Real(
        "npm:@modelcontextprotocol/server-memory@2026.8.31",
        _graph,
        env=lambda folder: {"MEMORY_FILE_PATH": str(folder / "graph.jsonl")},
    ),
    "sequential-thinking": Real(
        "npm:@modelcontextprotocol/server-sequential-thinking@2026.8.31",
        lambda folder: [
            (
                "sequentialthinking",
                {"thought": "one", "thoughtNumber": 1, "totalThoughts": 1, "nextThoughtNeeded": False},
            )
        ],
    ),
}


def prepare(folder: Path) -> None:
    """Give a folder the same content every time: a small repository."""
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("one\n")
    stamp = "2026-01-02T03:04:05+00:00"
    who = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.org", "GIT_COMMITTER_NAME": "a"}
    env = {
        **os.environ,
        **who,
        "GIT_COMMITTER_EMAIL": "a@example.org",
        "GIT_AUTHOR_DATE": stamp,
        "GIT_COMMITTER_DATE": stamp,
    }
    for words in (["init", "-q", "-b", "main"], ["add", "a.txt"], ["commit", "-q", "-m", "first"]):
        subprocess.run(["git", "-C", str(folder), *words], env=env, check=True, timeout=PATIENCE)


class Direct:
    """A server started by hand, without a cage and without Doorward."""

    def __init__(self, tree: Path, real: Real, folder: Path, era: str) -> None:
        self._era = era
        if real.package.startswith("npm:"):
            argv = [str(node()), str((tree / "node_modules" / ".bin" / real.program).resolve())]
        else:
            argv = [str(tree / "bin" / "python"), str(tree / "bin" / real.program)]
        env = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(folder), "LANG": "C.UTF-8"}
        self._process = subprocess.Popen(
            [*argv, *real.rest(folder)],
            env={**env, **real.env(folder)}, cwd=folder, text=True, encoding="utf-8",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._said: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._last = 0
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def __enter__(self) -> Direct:
        client = {"name": "test", "version": "1"}
        try:
            if self._era == MODERN:
                assert "result" in self.ask("server/discover", {})
            else:
                self.ask("initialize", {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": client})
                self._say({"method": "notifications/initialized"})
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *why: object) -> None:
        self._process.kill()
        self._process.wait()
        self._listener.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()

    def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """One request and its response, without version and id."""
        self._last += 1
        if self._era == MODERN:
            params = {**params, "_meta": {META + "protocolVersion": MODERN, META + "clientCapabilities": {}}}
        self._say({"id": self._last, "method": method, "params": params})
        while True:
            message = self._said.get(timeout=START_SECONDS)
            assert message is not None, f"the server ended at {method}"
            if message.get("id") == self._last and "method" not in message:
                return {key: message[key] for key in ("result", "error") if key in message}

    def _say(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        self._process.stdin.flush()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._said.put(json.loads(line))
        self._said.put(None)


DOORWARD = [str(Path(sys.executable).parent / "doorward")]
INSTALL_SECONDS = 300


def install(kept: Path) -> str:
    """Install what is not there yet with ``doorward servers add``; what it said if that failed, else ""."""
    kept.mkdir(parents=True, exist_ok=True)
    config = kept / "doorward.toml"
    if not config.exists():
        config.write_text('[gateway]\ndata_dir = "./data"\n')
    for name, real in REAL.items():
        lock = kept / "data" / "packages" / f"{name}.lock.json"
        if lock.exists():
            about = json.loads(lock.read_text())
            if (about["package"], tuple(about["with"])) == (real.package, real.beside):
                continue
        words = ["servers", "add", real.package, "--name", name, "--config", str(config)]
        words += [word for one in real.beside for word in ("--with", one)]
        done = subprocess.run(
            [*DOORWARD, *words], capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
        )
        if done.returncode:
            return f"{real.package}: {done.stderr[-500:]}"
    return ""
