"""Attacks by programs that Doorward starts: what they see, what they leave behind, and how much they say."""

from __future__ import annotations

import ast
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.stack.kit import Stack, descendants, processes, running
from tests.stack.wire import Answer, until

pytestmark = pytest.mark.cage

HOSTILE = Path(__file__).parents[1] / "stand_ins" / "hostile_stdio.py"
ROOT = Path(__file__).parents[2]
FAILED = -31008
CANARY = "canary-of-the-parent-5e1d"
MEGABYTE = 1 << 20


def child(*more: str, **extra: Any) -> dict[str, Any]:
    """A server table for the hostile program."""
    return {"command": [sys.executable, str(HOSTILE), *more], **extra}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    servers = {
        "caged": child(env={"DECLARED": "yes"}),
        "bare": child(env={"DECLARED": "yes"}, sandbox="none"),
        "loud": child("banner"),
        "literal": child("$(touch /tmp/pwned)", "; touch x", "`id`", "--", "&& x", "a\nb"),
    }
    with running(servers, environment={"PARENT_SECRET": CANARY, "AWS_SECRET_ACCESS_KEY": CANARY}) as started:
        yield started


def act(stack: Stack, server: str, session: str, user: str = "alice", **arguments: Any) -> Any:
    """What the program's tool says."""
    answer = tried(stack, server, session, user, **arguments)
    assert answer.status == 200 and answer.code is None, (answer, stack.log()[-3000:])
    return json.loads(answer.text)


def tried(stack: Stack, server: str, session: str, user: str = "alice", **arguments: Any) -> Answer:
    """The answer to a call of the program's tool."""
    params = {"name": "act", "arguments": arguments}
    return stack.legacy(server, session, "tools/call", params, id=os.urandom(4).hex(), user=user)


@pytest.fixture(scope="module")
def sessions(stack: Stack) -> dict[str, str]:
    """A session with each server."""
    return {name: stack.session(name) for name in ("caged", "bare", "loud", "literal")}


def children(stack: Stack) -> list[int]:
    """All processes below the gateway that are not its workers."""
    workers = set(stack.worker_pids())
    return [pid for pid in stack.pids() if pid not in workers]


# -- T-44, T-59 --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("server", ["caged", "bare"])
def test_t_44_a_program_gets_its_declared_variables_and_nothing_of_the_parents(
    stack: Stack, sessions: dict[str, str], server: str
) -> None:
    found = act(stack, server, sessions[server], do="environment")["environment"]
    assert found["DECLARED"] == "yes" and CANARY not in json.dumps(found)
    assert set(found) <= {
        "DECLARED",
        "PATH",
        "HOME",
        "LANG",
        "LC_ALL",
        "LC_CTYPE",
        "TMPDIR",
        "PWD",
        "TERM",
        "USER",
        "PYTHONDONTWRITEBYTECODE",
    }, found
    assert not [name for name in found if name.startswith(("DOORWARD", "MALLOC"))]


def test_t_44_a_caged_program_sees_neither_the_data_folder_nor_the_admin_socket_nor_a_network(
    stack: Stack, sessions: dict[str, str]
) -> None:
    (stack.folder / "private").write_text(CANARY)
    secret, admin = str(stack.folder / "private"), str(stack.data_dir / "admin.sock")
    stack.wait_admin()
    process = stack.process
    assert process is not None
    attacks: dict[str, dict[str, Any]] = {
        "private file": {"do": "read", "path": secret},
        "data folder": {"do": "list", "path": str(stack.data_dir)},
        "keys": {"do": "list", "path": str(stack.data_dir / "keys")},
        "settings": {"do": "read", "path": str(stack.config)},
        "home": {"do": "read", "path": str(Path.home() / ".profile")},
        "environment of the parent": {"do": "read", "path": f"/proc/{process.pid}/environ"},
        "own program": {"do": "write", "path": str(HOSTILE)},
        "admin socket": {"do": "connect-unix", "path": admin},
        "gateway": {"do": "connect", "place": stack.host},
        "parent": {"do": "kill-parent", "pid": process.pid},
    }
    before = HOSTILE.read_bytes()
    for name, attack in attacks.items():
        found = act(stack, "caged", sessions["caged"], **attack)
        assert isinstance(found, str) and found.endswith("Error") and CANARY not in found, (name, found)
    assert HOSTILE.read_bytes() == before
    seen = act(stack, "caged", sessions["caged"], do="processes")
    assert len(seen) <= 4, "its own process namespace"
    # The same without the cage, which shows that the attacks work: nothing else stops them.
    for name in ("private file", "data folder", "settings", "admin socket", "gateway"):
        found = act(stack, "bare", sessions["bare"], **attacks[name])
        assert not (isinstance(found, str) and found.endswith("Error")), (name, found)
    assert process.poll() is None


def test_t_59_what_stands_in_a_command_is_never_read_by_a_shell(
    stack: Stack, sessions: dict[str, str]
) -> None:
    found = act(stack, "literal", sessions["literal"], do="environment")["arguments"]
    assert found == ["$(touch /tmp/pwned)", "; touch x", "`id`", "--", "&& x", "a\nb"]
    assert not Path("/tmp/pwned").exists()


SPECS = [
    "pypi:x; touch /tmp/pwned==1", "pypi:--index-url=https://evil.example==1", "pypi:git+https://evil.example/x==1",
    "npm:--registry=https://evil.example@1", "npm:file:../x@1", "pypi:x==$(id)", "npm:@a/../b@1",
]  # fmt: skip


@pytest.mark.parametrize("spec", SPECS)
def test_t_59_a_package_name_is_a_name_and_never_an_option_a_path_or_a_url(stack: Stack, spec: str) -> None:
    before = stack.config.read_bytes()
    done = stack.command("servers", "add", spec)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert stack.config.read_bytes() == before and not Path("/tmp/pwned").exists()
    packages = stack.data_dir / "packages"
    assert not packages.exists() or not list(packages.glob("*evil*"))


def test_t_59_nothing_in_the_source_starts_a_shell() -> None:
    found = []
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "shell" and getattr(node.value, "value", None):
                found.append(f"{path}:{node.value.lineno}")
            elif isinstance(node, ast.Attribute) and node.attr in (
                "system",
                "popen",
                "create_subprocess_shell",
                "getoutput",
            ):
                if isinstance(node.value, ast.Name) and node.value.id in (
                    "os",
                    "asyncio",
                    "subprocess",
                    "commands",
                ):
                    found.append(f"{path}:{node.lineno}")
    assert not found


# -- banners, T-78 -------------------------------------------------------------------------------------------------------------


def test_a_banner_on_stdout_does_not_hurt(stack: Stack, sessions: dict[str, str]) -> None:
    assert act(stack, "loud", sessions["loud"], do="nothing", x=1) == {"do": "nothing", "x": 1}


def test_t_78_a_line_without_end_ends_its_program_and_costs_no_memory(stack: Stack) -> None:
    session = stack.session("caged", user="victim")
    assert act(stack, "caged", session, "victim", x=1) == {"x": 1}
    process = stack.process
    assert process is not None

    def resident() -> int:
        pids = [process.pid, *stack.worker_pids()]
        return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids) * 4096

    before, running_now = resident(), set(children(stack))
    answer = tried(stack, "caged", session, "victim", do="flood")
    assert answer.code == FAILED, answer
    assert resident() - before < 64 * MEGABYTE
    until(
        lambda: set(children(stack)) != running_now or len(children(stack)) < len(running_now),
        "the end of the program",
    )
    row = stack.row_of(answer)
    assert row["outcome"] == "upstream-failed" and row["server"] == "caged"
    again = stack.session("caged", user="other")
    assert stack.legacy("caged", again, "ping", user="other").status == 200


# -- T-62 ----------------------------------------------------------------------------------------------------------------------


def test_t_62_processes_come_and_go_with_their_clients() -> None:
    with running({"s": child()}) as stack:
        assert children(stack) == [], "nothing is started before somebody needs it"
        for turn in range(3):
            opened = {f"user-{turn}-{number}": "" for number in range(3)}
            for user in opened:
                opened[user] = stack.session("s", user=user)
            until(lambda: children(stack), "the programs")
            for user, session in opened.items():
                made = stack.legacy(
                    "s",
                    session,
                    "tools/call",
                    {"name": "act", "arguments": {"do": "fork", "count": 5}},
                    user=user,
                )
                assert json.loads(made.text) == 5
                assert stack.ask("s", verb="DELETE", Mcp_Session_Id=session, user=user).status == 200
            count = len(children(stack))
            assert count < 3 * 3 * 12, count
        below = descendants(stack.process.pid) if stack.process is not None else []
        stack.stop()
        until(
            lambda: not [pid for pid in below if pid in processes()],
            "the end of every process, grandchildren too",
        )


@pytest.mark.parametrize("way", ["exit", "kill"])
def test_t_62_a_program_that_dies_is_reaped_and_comes_again(stack: Stack, way: str) -> None:
    user = f"dying-{way}"
    session = stack.session("caged", user=user)
    before = set(children(stack))
    if way == "exit":
        answer = stack.legacy(
            "caged", session, "tools/call", {"name": "act", "arguments": {"do": "exit"}}, user=user
        )
        assert answer.code == FAILED, answer
    else:
        table = processes()
        for pid in before:
            if "hostile_stdio" in table[pid][1]:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue

    def again() -> bool:
        opened = stack.initialize("caged", user=user)
        if opened.status != 200 or opened.code is not None:
            return False
        found = stack.legacy(
            "caged",
            opened.fields["mcp-session-id"],
            "tools/call",
            {"name": "act", "arguments": {"x": 1}},
            user=user,
        )
        return found.status == 200 and found.code is None

    until(again, "the program to come again")
    zombies = [name for name in os.listdir("/proc") if name.isdigit() and _is_zombie_of(int(name), stack)]
    assert len(zombies) <= 1, zombies


def _is_zombie_of(pid: int, stack: Stack) -> bool:
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return False
    return state == "Z" and stack.process is not None and int(parent) == stack.process.pid


def test_t_62_a_fork_bomb_stays_below_its_cap_and_ends_whole() -> None:
    from doorward.base import limits

    with running({"s": child()}) as stack:
        session = stack.session("s")
        answer = stack.legacy(
            "s", session, "tools/call", {"name": "act", "arguments": {"do": "fork", "count": 2_000}}
        )
        assert answer.status == 200
        assert answer.code == FAILED or json.loads(answer.text) <= limits.CHILD_PROCESSES
        below = children(stack)
        assert len(below) <= limits.CHILD_PROCESSES + 8
        stack.stop()
        until(lambda: not [pid for pid in below if pid in processes()], "the end of every process")


def test_t_62_a_killed_gateway_leaves_no_program_behind() -> None:
    with running({"s": child()}, workers=2) as stack:
        session = stack.session("s")
        made = stack.legacy(
            "s", session, "tools/call", {"name": "act", "arguments": {"do": "fork", "count": 5}}
        )
        assert json.loads(made.text) == 5
        assert stack.process is not None
        below = descendants(stack.process.pid)
        stack.process.kill()
        stack.process.wait(15)
        until(lambda: not [pid for pid in below if pid in processes()], "the end of every process")
