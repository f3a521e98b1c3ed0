"""The official SDK clients, both languages, both major versions, every era that they speak: Doorward changes nothing for them.

Each client does the same at the server itself and at Doorward: lists, calls with progress, answers to the server's questions,
resources, templates, prompts, an unknown tool, the end of the session. What it saw must be equal.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.peers.places import HERE, NODE_FOLDER, ROOT, STAND_INS, node, node_package, python_1
from tests.peers.suite import EVERYTHING, everything_over_http
from tests.stack.kit import Stack, running

ASKS = ["sampling", "elicitation", "roots"]
LEGACY, MODERN = "2025-11-25", "2026-07-28"
CLIENT_SECONDS = 60


class Peer(NamedTuple):
    """One client: what to run, and the version that it should agree on."""

    language: str
    script: str
    mode: str
    version: str

    def command(self) -> list[str]:
        if self.language == "node":
            node_package(
                "@modelcontextprotocol/client" if "_2" in self.script else "@modelcontextprotocol/sdk"
            )
            return [str(node()), str(NODE_FOLDER / self.script), self.mode]
        python = str(python_1()) if "_1" in self.script else sys.executable
        return [python, str(HERE / "python" / self.script), self.mode]


PEERS = {
    "python 1": Peer("python", "client_1.py", "", LEGACY),
    "python 2, old era": Peer("python", "client_2.py", "legacy", LEGACY),
    "python 2": Peer("python", "client_2.py", "auto", MODERN),
    "typescript 1": Peer("node", "client_1.mjs", "", LEGACY),
    "typescript 2, old era": Peer("node", "client_2.mjs", "legacy", LEGACY),
    "typescript 2": Peer("node", "client_2.mjs", "auto", MODERN),
}
MARKED = [
    pytest.param(name, marks=[pytest.mark.node] if one.language == "node" else [])
    for name, one in PEERS.items()
]


@pytest.fixture(scope="module")
def direct() -> Iterator[str]:
    """The server itself."""
    with everything_over_http() as port:
        yield f"http://127.0.0.1:{port}/mcp"


@pytest.fixture(scope="module")
def stack(direct: str) -> Iterator[Stack]:
    """Doorward before that server, and before the same one in the cage."""
    files = [{"path": str(STAND_INS)}, {"path": str(ROOT / ".venv")}]
    servers = {
        "everything": {"url": direct, "allow_requests": ASKS},
        "caged": {
            "command": [sys.executable, str(EVERYTHING), "stdio"],
            "files": files,
            "allow_requests": ASKS,
        },
    }
    with running(servers) as one:
        yield one


def visits(peer: Peer, *targets: dict[str, str]) -> list[dict[str, Any]]:
    """What a client saw at each address."""
    done = subprocess.run(
        peer.command(),
        input=json.dumps(targets),
        capture_output=True,
        text=True,
        timeout=CLIENT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4_000:]
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def target(url: str, token: str = "none", tool: str = "", uri: str = "") -> dict[str, str]:
    return {"url": url, "token": token, "tool": tool, "uri": uri}


@functools.cache
def directly(name: str, url: str) -> str:
    """What a client saw at the server itself, as JSON."""
    return json.dumps(visits(PEERS[name], target(url))[0])


def comparable(seen: dict[str, Any]) -> dict[str, Any]:
    """What must be equal everywhere: all but the session's id."""
    return {key: value for key, value in seen.items() if key != "session"}


def own(seen: dict[str, Any], server: str, other: str) -> dict[str, Any]:
    """The part of a federated view that one server makes up, with its own names."""
    kept = {
        key: [one for one in value if other not in json.dumps(one)]
        if key in ("tools", "resources", "templates", "prompts")
        else value
        for key, value in seen.items()
    }
    plain = json.dumps(kept).replace(f"{server}__", "").replace(f"{server}+", "").replace(f"{other}+", "")
    found: dict[str, Any] = json.loads(plain)
    return found


@pytest.mark.parametrize("name", MARKED)
@pytest.mark.parametrize("server", ["everything", pytest.param("caged", marks=pytest.mark.cage)])
def test_a_client_sees_through_doorward_what_it_sees_without(
    stack: Stack, direct: str, name: str, server: str
) -> None:
    peer = PEERS[name]
    wanted = json.loads(directly(name, direct))
    found = visits(peer, target(stack.url + stack.path(server), stack.token(server)))[0]
    assert found["version"] == wanted["version"] == peer.version
    assert comparable(found) == comparable(wanted)
    assert wanted["progress"] == [[0, 100, "step 0"], [50, 100, "step 50"], [100, 100, "step 100"]]
    assert_over(stack, server, peer, found["session"])


def assert_over(stack: Stack, server: str, peer: Peer, session: str) -> None:
    """The session that the client ended is unknown from then on."""
    assert bool(session) == (peer.version == LEGACY)
    if session:
        assert stack.legacy(server, session, "tools/list").status == 404


@pytest.mark.cage
@pytest.mark.parametrize("name", MARKED)
def test_a_client_finds_all_servers_at_the_federated_address(stack: Stack, direct: str, name: str) -> None:
    peer = PEERS[name]
    at = target(stack.url + stack.path(""), stack.token(), "everything__", "everything+")
    wanted, found = json.loads(directly(name, direct)), visits(peer, at)[0]
    both = {one["name"] for one in found["tools"]}
    assert {"everything__greet", "caged__greet"} <= both
    assert len(found["resources"]) == 2 * len(wanted["resources"])
    assert found["server"] == "doorward"
    seen = own(found, "everything", "caged")
    for key in ("server", "session"):
        del seen[key], wanted[key]
    assert seen == wanted
    assert_over(stack, "", peer, found["session"])
