"""The official SDK clients over stdio: what they see of a wrapped server is what they see of the server itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.peers.places import HERE, NODE_FOLDER, STAND_INS, node, node_package, python_1
from tests.stack.kit import DOORWARD, MODERN

SERVER = [sys.executable, str(STAND_INS / "stdio_server.py")]
pytestmark = pytest.mark.cage


def client(name: str) -> list[str]:
    """The command of a client."""
    if name == "typescript 1":
        node_package("@modelcontextprotocol/sdk")
        return [str(node()), str(NODE_FOLDER / "stdio_1.mjs")]
    if name == "python 1":
        return [str(python_1()), str(HERE / "python" / "stdio_1.py")]
    mode = "legacy" if "old era" in name else "auto"
    return [sys.executable, str(HERE / "python" / "stdio_2.py"), mode]


def seen(name: str, command: list[str], home: Path) -> dict[str, Any]:
    """What the client sees of a server that it starts."""
    done = subprocess.run(
        [*client(name), *command], capture_output=True, text=True, timeout=90, check=False,
        env={**os.environ, "XDG_DATA_HOME": str(home)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("name", ["python 1", "python 2, old era", "python 2", "typescript 1"])
def test_a_client_sees_through_doorward_what_it_sees_without(name: str, tmp_path: Path) -> None:
    through = seen(name, [*DOORWARD, "wrap", "--", *SERVER], tmp_path)
    assert through == seen(name, SERVER, tmp_path)
    assert (through["added"], through["counted"], through["steps"]) == ("3", "counted", [1, 2, 3])
    if name == "python 2":
        assert through["version"] == MODERN
    (place,) = (tmp_path / "doorward" / "wrap").iterdir()
    assert (place / "data" / "ledger").is_dir()
