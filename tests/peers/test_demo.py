"""The README's first command: two real servers from the registries, one protected call as proof, a clean end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from doorward.adapters.executables import find_node

DOORWARD = Path(sys.executable).parent / "doorward"


def processes_in(folder: Path) -> list[str]:
    found = subprocess.run(["ps", "-ewwo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in found.splitlines() if str(folder) in line]


@pytest.mark.node
@pytest.mark.cage
def test_the_demo_proves_itself_serves_and_leaves_no_process(tmp_path: Path) -> None:
    assert find_node() is not None
    child = subprocess.Popen(
        [DOORWARD, "demo", "--folder", tmp_path / "demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "NO_COLOR": "1"},
    )
    assert child.stderr is not None and child.stdout is not None
    said = []
    for line in child.stderr:
        said.append(line)
        if "running; Ctrl-C" in line:
            break
    else:
        pytest.fail("".join(said))
    assert processes_in(tmp_path)
    child.send_signal(signal.SIGINT)
    printed = child.stdout.read()
    assert child.wait(30) == 0
    child.stderr.close()
    child.stdout.close()
    assert (
        "Europe/Amsterdam" in printed
        and "Echo: hello through the door" in printed
        and "refused: 401" in printed
    )
    for word in (
        "claude mcp add",
        "code --add-mcp",
        "mcpServers",
        "curl",
        "admin-token",
        "audit tail",
        "/oauth/login?ticket=",
        "login-link",
    ):
        assert word in printed, word
    url = re.search(r"(http://127\.0\.0\.1:\d+)/mcp ", printed)
    assert url is not None
    with pytest.raises(OSError):
        urllib.request.urlopen(url[1] + "/healthz", timeout=5)
    assert processes_in(tmp_path) == []
