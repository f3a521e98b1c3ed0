"""The official conformance suite: against a server itself, and against Doorward before that server.

Doorward stands there as in real life: tokens, strict reading, policy, limits and the ledger are on. The suite cannot send
a token, so a port before Doorward adds one and leaves everything else as it is, Host and Origin too.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.peers.places import ROOT, STAND_INS
from tests.peers.suite import (
    DIRECT,
    EVERYTHING,
    HTTP,
    SETS,
    STDIO,
    Run,
    committed,
    everything_over_http,
    expected,
)
from tests.stack.kit import Stack, running
from tests.stand_ins.token_shim import TokenShim

pytestmark = pytest.mark.node
ASKS = ["sampling", "elicitation", "roots"]


@pytest.fixture(scope="module")
def upstream() -> Iterator[int]:
    """The port of a conformant server."""
    with everything_over_http() as port:
        yield port


def before(server: dict[str, Any], workers: int) -> Iterator[tuple[Stack, str]]:
    """Doorward before a server, and the URL at which the suite finds it with a token."""
    with TokenShim() as shim:
        hosts = [f"127.0.0.1:{shim.port}", f"localhost:{shim.port}"]
        tables = {
            "gateway": {"hosts": hosts, "origins": [f"http://{host}" for host in hosts]},
            "limits": {"calls": 100_000, "concurrent": 1_000},
        }
        with running(
            {"everything": {**server, "allow_requests": ASKS}}, workers=workers, tables=tables
        ) as stack:
            shim.aim(stack.port, stack.token("everything"))
            yield stack, f"http://127.0.0.1:{shim.port}/everything/mcp"


@pytest.fixture(scope="module")
def before_http(upstream: int) -> Iterator[tuple[Stack, str]]:
    """Doorward before the server over HTTP; with two workers a session's requests often land on the other one."""
    yield from before({"url": f"http://127.0.0.1:{upstream}/mcp"}, workers=2)


@pytest.fixture(scope="module")
def before_stdio() -> Iterator[tuple[Stack, str]]:
    """Doorward before the same server, started by Doorward in the cage."""
    command = [sys.executable, str(EVERYTHING), "stdio"]
    files = [{"path": str(STAND_INS)}, {"path": str(ROOT / ".venv")}]
    yield from before({"command": command, "files": files}, workers=1)


def _differences(run: Run, rows: list[str]) -> list[str]:
    found, wanted = Counter(run.rows), Counter(rows)
    lost = [f"lost: {row}" for row in sorted((wanted - found).elements())]
    return lost + [f"new:  {row}  {run.why.get(row, '')}" for row in sorted((found - wanted).elements())]


def assert_as_listed(run: Run, rows: list[str]) -> None:
    """The run came out as the list says, row by row."""
    difference = _differences(run, rows)
    assert not difference, "\n".join([*difference, run.said if not run.rows else ""])


def test_the_committed_list_is_the_one_that_the_specification_asks_for() -> None:
    listed = committed(DIRECT)
    legacy, modern = (listed[name] for name in SETS)
    assert len({row.split()[0] for row in legacy}) == 33
    assert sum(row.endswith(" SUCCESS") for row in legacy) == 84
    assert not [row for row in legacy if row.endswith((" FAILURE", " WARNING", " SKIPPED"))]
    # Of the 2026 set only the extension "tasks" is missing, which the suite does not score.
    assert not [
        row
        for row in modern
        if row.endswith((" FAILURE", " WARNING", " SKIPPED")) and not row.startswith("tasks-")
    ]


@pytest.mark.parametrize("requirements", SETS)
def test_the_listed_changes_lose_no_check_over_http(requirements: str) -> None:
    lost = Counter(committed(DIRECT)[requirements]) - Counter(expected(requirements, HTTP))
    assert not [row for row in lost if row.endswith(" SUCCESS")]


@pytest.mark.parametrize("requirements", SETS)
def test_a_conformant_server_itself_gets_what_is_listed(upstream: int, requirements: str) -> None:
    run = Run(f"http://127.0.0.1:{upstream}/mcp", requirements)
    assert_as_listed(run, committed(DIRECT)[requirements])
    assert run.status == 0, run.said


@pytest.mark.parametrize("requirements", SETS)
def test_no_check_is_lost_through_doorward(before_http: tuple[Stack, str], requirements: str) -> None:
    stack, url = before_http
    run = Run(url, requirements)
    assert_as_listed(run, expected(requirements, HTTP))
    assert run.status == 0, run.said
    callers = {
        row["principal"] for row in stack.rows(server="everything") if row["item"] == "test_simple_text"
    }
    assert callers == {"alice"}, "authentication was on: every call is on record as the caller's"


@pytest.mark.cage
@pytest.mark.parametrize("requirements", SETS)
def test_a_stdio_server_in_the_cage_speaks_http_as_well_as_its_list_says(
    before_stdio: tuple[Stack, str], requirements: str
) -> None:
    _, url = before_stdio
    run = Run(url, requirements)
    assert_as_listed(run, expected(requirements, HTTP, STDIO))
    assert run.status == 0, run.said
