"""A client of the older era, the official SDK 1.x, with a server on the official SDK 2.x that speaks only the newer one."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.peers.places import HERE, ROOT, STAND_INS, python_1
from tests.stack.kit import Stack, running


def test_an_old_client_does_everything_at_a_server_of_the_new_era_only() -> None:
    with subprocess.Popen(
        [sys.executable, str(STAND_INS / "modern_server.py")], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        try:
            port = server.stdout.readline().strip().removeprefix("port=")
            _visit(f"http://127.0.0.1:{port}/mcp")
        finally:
            server.kill()


@pytest.mark.cage
def test_an_old_client_is_asked_by_a_caged_process_of_the_new_era_only() -> None:
    command = [sys.executable, str(STAND_INS / "modern_stdio.py")]
    files = [{"path": str(STAND_INS)}, {"path": str(ROOT / ".venv")}]
    servers = {"modern": {"command": command, "files": files, "allow_requests": ["elicitation"]}}
    with running(servers) as stack:
        for _ in range(2):  # the second session knows what the first found out
            seen = _seen(stack, "ask")
            assert (seen["server"], seen["asked"]) == ("unnamed", "False: a name s")


def _seen(stack: Stack, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [str(python_1()), str(HERE / "python" / "client_1_cell_a.py"), *arguments],
        input=json.dumps([stack.url + stack.path("modern"), stack.token("modern")]),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4_000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _visit(url: str) -> None:
    asks = ["sampling", "elicitation", "roots"]
    with running({"modern": {"url": url, "allow_requests": asks}}) as stack:
        seen = _seen(stack)
        assert (seen["version"], seen["server"]) == ("2025-11-25", "everything")
        assert seen["tools"] > 20 and seen["prompts"] > 2 and seen["read"] == 1
        assert "Zoë ✓" in seen["greet"]
        assert seen["steps"] == [[0, 100, "step 0"], [50, 100, "step 50"], [100, 100, "step 100"]]
        assert seen["elicitation"] == "False: Hello, a name!"
        assert "Paris" in seen["sampling"]
        assert seen["list_roots"].startswith("False") and seen["multiple_inputs"].startswith("False")
        assert seen["multi_round"] == "False: a name likes a color"
        assert seen["touch"] == "False: touched" and seen["cancelled"] == "False: 1"
        rows = [row for row in stack.rows() if row["method"] == "tools/call"]
        assert {row["cell"] for row in rows} == {"legacy-modern"}
