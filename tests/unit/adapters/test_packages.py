"""Packaged servers: names, locks, tampering, and two real ones from the registries in the cage (T-59, ST-12)."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from doorward.adapters import bus
from doorward.adapters.cage import Cage
from doorward.adapters.packages import Packages, parse_package
from doorward.adapters.stdio_link import StdioUpstream
from doorward.adapters.stdio_pool import StdioPool
from doorward.base.errors import OperatorError, TamperError, UpstreamError
from doorward.catalogue.server import ServerSpec
from doorward.gateway.ports import Link
from doorward.protocol.envelope import notification, request
from doorward.protocol.message import Message

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the cage needs Linux"),
]
TIME = ServerSpec(name="time", package="pypi:mcp-server-time==2026.10.19", command=("mcp-server-time",))
MEMORY_NAME = "npm:@modelcontextprotocol/server-memory@2026.8.31"
INIT = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}


@pytest.mark.parametrize(
    ("text", "parts", "short"),
    [
        ("pypi:mcp-server-time==2026.10.19", ("pypi", "mcp-server-time", "2026.10.19"), "time"),
        (
            "npm:@modelcontextprotocol/server-memory@1.2.3",
            ("npm", "@modelcontextprotocol/server-memory", "1.2.3"),
            "memory",
        ),
        ("npm:some-mcp@1.0.0-beta.1", ("npm", "some-mcp", "1.0.0-beta.1"), "some"),
    ],
)
def test_package_names_are_read(text: str, parts: tuple[str, str, str], short: str) -> None:
    package = parse_package(text)
    assert (package.registry, package.name, package.version) == parts
    assert package.short == short
    assert package.text == text


@pytest.mark.parametrize(
    "text",
    [
        "mcp-server-time", "pypi:x", "pypi:x==", "npm:x", "npm:@a/b", "pypi:-rfile==1", "pypi:x==1;curl", "npm:--global@1", "npm:x@latest", "npm:x@1", "npm:x@1.2", "pypi:x==latest",
        "npm:../x@1", "npm:git+https://e/x@1", "pypi:x @ https://e==1", "npm:x@latest\n", "pypi:==1", "npm:@1", "gem:x@1", "npm:@/@1",
    ],
)  # fmt: skip
def test_t59_what_is_no_exact_package_never_reaches_an_installer(text: str) -> None:
    with pytest.raises(OperatorError) as caught:
        parse_package(text)
    assert caught.value.code == "package-name"


@pytest.fixture(scope="session")
def installed() -> Packages:
    """Both packages, installed once for all workers of all runs on this machine."""
    folder = Path(tempfile.gettempdir()) / f"doorward-test-packages-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    packages = Packages(folder)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for server, text in (("time", TIME.package), ("memory", MEMORY_NAME)):
            try:
                fresh = packages.lock(server)["package"] == text
                packages.verify(server)
            except (OperatorError, TamperError):
                fresh = False
            if not fresh:
                packages.install(server, parse_package(text), say=lambda _: None)
    return packages


def test_locks_name_every_distribution_with_its_hash(installed: Packages) -> None:
    pypi, npm = installed.lock("time"), installed.lock("memory")
    assert {"mcp-server-time", "mcp"} <= {one["name"] for one in pypi["distributions"]}
    assert all(len(one["hash"]) == len("sha256:") + 64 for one in pypi["distributions"])
    assert all(one["hash"].startswith("sha512-") for one in npm["distributions"])
    assert installed.commands("time") == ["mcp-server-time"]
    assert installed.commands("memory") == ["mcp-server-memory"]


def test_a_changed_file_is_found_before_the_start(installed: Packages, tmp_path: Path) -> None:
    packages = Packages(tmp_path)
    tree = tmp_path / "packages" / "x"
    tree.mkdir(parents=True)
    (tree / "code.py").write_text("good")
    from doorward.adapters.packages import _digest_tree

    (tmp_path / "packages" / "x.lock.json").write_text(
        __import__("json").dumps({"package": "pypi:x==1", "files": _digest_tree(tree)})
    )
    packages.verify("x")
    packages.verify("x")
    (tree / "code.py").write_text("evil")
    with pytest.raises(TamperError):
        packages.verify("x")
    (tree / "code.py").write_text("good")
    (tree / "more.py").write_text("")
    with pytest.raises(TamperError):
        packages.verify("x")


def test_a_package_that_is_not_installed_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="doorward servers add"):
        Packages(tmp_path).packaged(TIME)


def test_an_unknown_version_is_explained(tmp_path: Path) -> None:
    with pytest.raises(OperatorError) as caught:
        Packages(tmp_path).install("x", parse_package("pypi:mcp-server-time==0.0.0"), say=lambda _: None)
    assert "2026.10.19" in caught.value.tell
    assert not (tmp_path / "packages" / "x").exists()


class _Sink:
    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.error: UpstreamError | None = None
        self.is_over = self.is_paused = False
        self.on_writable: Any = None

    def streaming(self, retry_ms: int | None = None, event_id: str = "") -> None: ...

    def message(self, message: Message, event_id: str = "", status: int = 200) -> None:
        self.messages.append(message)

    def done(self) -> None:
        self.is_over = True

    def failed(self, error: UpstreamError) -> None:
        self.error, self.is_over = error, True


@pytest.fixture
async def started(installed: Packages) -> AsyncIterator[Any]:
    left, right = socket.socketpair()
    supervisor, worker = await bus.Peer.over(left), await bus.Peer.over(right)
    data_dir = installed.folder.parent
    pool = StdioPool(Cage(data_dir, data_dir), package_of=installed.packaged)
    supervisor.accept("stdio", pool.accept)

    async def wait_for(condition: Any) -> None:
        end = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < end
            await asyncio.sleep(0.01)

    async def start(spec: ServerSpec) -> Any:
        pool.set_servers({spec.name: spec})
        found: list[Link | UpstreamError] = []
        StdioUpstream(worker, spec).link("alice", "legacy", "2025-06-18", {}, found.append)
        await wait_for(lambda: bool(found))
        link = found[0]
        assert not isinstance(link, UpstreamError), (link, link.detail)

        async def ask(method: str, params: dict[str, Any]) -> dict[str, Any]:
            sink = _Sink()
            link.post(request(1, method, params), sink)
            await wait_for(lambda: sink.is_over)
            assert sink.error is None, (sink.error, sink.error.detail)
            return sink.messages[-1].value["result"]  # type: ignore[no-any-return]

        await ask("initialize", INIT)
        link.post(notification("notifications/initialized"), _Sink())
        return ask

    yield start
    await pool.close()
    supervisor.close()
    worker.close()
    await asyncio.sleep(0)


async def test_a_real_pypi_server_answers_from_the_cage(started: Any) -> None:
    ask = await started(TIME)
    tools = {tool["name"] for tool in (await ask("tools/list", {}))["tools"]}
    assert tools == {"get_current_time", "convert_time"}
    result = await ask(
        "tools/call", {"name": "get_current_time", "arguments": {"timezone": "Europe/Amsterdam"}}
    )
    assert "Europe/Amsterdam" in result["content"][0]["text"]


@pytest.mark.parametrize("sandbox", ["strict", "none"])
async def test_a_real_npm_server_answers_from_the_cage(started: Any, sandbox: Any, tmp_path: Path) -> None:
    where = "/tmp/home/memory.json" if sandbox == "strict" else str(tmp_path / "memory.json")
    ask = await started(
        ServerSpec(
            name="memory",
            package=MEMORY_NAME,
            command=("mcp-server-memory",),
            sandbox=sandbox,
            env={"MEMORY_FILE_PATH": where},
        )
    )
    assert "create_entities" in {tool["name"] for tool in (await ask("tools/list", {}))["tools"]}
    entity = {"name": "Ada", "entityType": "person", "observations": ["writes programs"]}
    await ask("tools/call", {"name": "create_entities", "arguments": {"entities": [entity]}})
    result = await ask("tools/call", {"name": "read_graph", "arguments": {}})
    assert "Ada" in result["content"][0]["text"]
