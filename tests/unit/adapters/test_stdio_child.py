"""One stdio server: lines, banners, endless lines, limits, and an end that leaves no process (ST-01..ST-03, T-62, T-78)."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from doorward.adapters.cage import Cage, ResourceLimits
from doorward.adapters.cgroup import ProcessGroups
from doorward.adapters.stdio_child import StdioChild
from doorward.base import limits
from doorward.base.errors import UpstreamError
from doorward.catalogue.server import ServerSpec
from doorward.protocol.envelope import request
from doorward.protocol.message import Message

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the cage needs Linux"),
]
PYTHON = sys.executable
ECHO = """
import sys, json
for line in sys.stdin:
    message = json.loads(line)
    if "id" in message:
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": {"answer": ANSWER}}), flush=True)
"""


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


async def until(condition: Callable[[], bool], what: str, seconds: float = 10.0) -> None:
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        await asyncio.sleep(0.01)


class Seen:
    """Collects what a child does."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.exits: list[UpstreamError] = []
        self.malformed = 0

    def on_message(self, message: Message) -> None:
        self.messages.append(message)

    def on_malformed(self) -> None:
        self.malformed += 1

    def on_exit(self, error: UpstreamError) -> None:
        self.exits.append(error)


class Workshop:
    """Starts scripts as caged children and ends them all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data_dir = folder / "doorward-data"
        self.data_dir.mkdir()
        (self.data_dir / "secret.txt").write_text("sentinel")
        self.children: list[StdioChild] = []

    async def start(
        self, script: str, *, sandbox: Any = "strict", env: dict[str, str] | None = None, **more: Any
    ) -> tuple[StdioChild, Seen]:
        path = self.folder / f"server{len(self.children)}.py"
        path.write_text(textwrap.dedent(script))
        resources = more.pop("resources", None)
        cage = Cage(self.data_dir, self.folder, resources=resources)
        spec = ServerSpec(name="test", command=(PYTHON, path.name), sandbox=sandbox, **more)
        seen = Seen()
        child = StdioChild("test", cage.launch(spec, env or {}), seen, ProcessGroups())
        self.children.append(child)
        await child.start()
        return child, seen

    async def ask(self, expression: str, **more: Any) -> Any:
        """Start a server that answers with the value of a Python expression."""
        child, seen = await self.start(
            "import os, socket, pathlib, resource\n" + ECHO.replace("ANSWER", expression), **more
        )
        child.send(request(1, "ask"))
        await until(lambda: bool(seen.messages or seen.exits), "no answer")
        assert seen.messages, seen.exits[0].detail
        return seen.messages[0].value["result"]["answer"]


@pytest.fixture
async def workshop(tmp_path: Path) -> Any:
    shop = Workshop(tmp_path)
    yield shop
    for child in shop.children:
        child.stop()
        await child.wait()


def processes_with(mark: str) -> list[int]:
    """Processes whose command line or environment names ``mark``."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if mark.encode() in text and state != "Z":
                found.append(int(entry.name))
    return found


async def test_a_caged_server_gets_only_its_declared_environment(workshop: Workshop) -> None:
    os.environ["DOORWARD_TEST_SENTINEL"] = "leak"
    env = await workshop.ask("dict(os.environ)", env={"TZ": "UTC"})
    env.pop("LC_CTYPE", None)  # Python's own
    assert set(env) <= {"TZ", "PATH", "HOME", "LANG", "PWD"}
    assert env["TZ"] == "UTC"
    assert env["HOME"] == "/tmp/home"


async def test_a_caged_server_sees_neither_data_dir_nor_home_nor_other_files(workshop: Workshop) -> None:
    paths = [
        str(workshop.data_dir),
        str(workshop.data_dir / "secret.txt"),
        "/etc/passwd",
        "/etc/shadow",
        "/var",
        "/root/.bashrc",
    ]
    home = os.path.expanduser("~")
    paths += [f"{home}/{name}" for name in os.listdir(home) if name not in (".pyenv",)][:10]
    assert await workshop.ask(f"[p for p in {paths!r} if os.path.exists(p)]") == []


async def test_a_caged_server_has_no_network_and_no_other_processes(workshop: Workshop) -> None:
    answer = await workshop.ask(
        "[[n for _, n in socket.if_nameindex()], sorted(int(p) for p in os.listdir('/proc') if p.isdigit()),"
        " [l for l in open('/proc/self/status') if l.startswith(('CapEff', 'NoNewPrivs'))]]"
    )
    assert answer[0] == ["lo"]
    assert len(answer[1]) <= 3
    assert [line.split()[1] for line in answer[2]] == ["0000000000000000", "1"]


async def test_a_caged_server_cannot_write_what_it_may_read(workshop: Workshop) -> None:
    grants = workshop.folder / "granted"
    grants.mkdir()
    answer = await workshop.ask(
        f"[os.access(p, os.W_OK) for p in ('/usr', '/', {PYTHON!r}, {str(grants)!r}, '/tmp')]"
    )
    assert answer == [False, False, False, False, True]


async def test_limits_of_memory_files_and_processes_hold_inside(workshop: Workshop) -> None:
    resources = ResourceLimits(memory_bytes=200_000_000, processes=8, open_files=64, file_bytes=1_000_000)
    script = """
import sys, json, os, resource, time
def memory():
    try:
        bytearray(400_000_000)
    except MemoryError:
        return "refused"
def processes():
    made = []
    try:
        for _ in range(30):
            pid = os.fork()
            if pid == 0:
                time.sleep(60); os._exit(0)
            made.append(pid)
    except OSError:
        return "refused"
    finally:
        for pid in made:
            os.kill(pid, 9)
for line in sys.stdin:
    answer = [memory(), processes(), resource.getrlimit(resource.RLIMIT_NOFILE)[0], resource.getrlimit(resource.RLIMIT_CORE)[0]]
    print(json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"answer": answer}}), flush=True)
"""
    if not ProcessGroups().is_available and os.geteuid() == 0:
        pytest.skip("root without a cgroup: nothing here can count processes")
    child, seen = await workshop.start(script, resources=resources)
    child.send(request(1, "ask"))
    await until(lambda: bool(seen.messages or seen.exits), "no answer")
    assert seen.messages[0].value["result"]["answer"] == ["refused", "refused", 64, 0]


async def test_banners_before_the_first_message_are_skipped(workshop: Workshop) -> None:
    child, seen = await workshop.start(
        "print('Welcome!')\nprint('{not json')\n" + ECHO.replace("ANSWER", "1")
    )
    child.send(request("a", "ask"))
    await until(lambda: bool(seen.messages), "no answer")
    assert seen.messages[0].id == "a"
    assert child.lines_ignored == 2
    assert seen.malformed == 0


async def test_a_server_that_only_chatters_is_given_up(workshop: Workshop) -> None:
    child, seen = await workshop.start("while True: print('tick', flush=True)")
    await until(lambda: bool(seen.exits), "not given up")
    assert seen.exits[0].code == "upstream-not-mcp"
    await child.wait()


async def test_t78_an_endless_line_ends_the_server_and_memory_stays_flat(workshop: Workshop) -> None:
    child, seen = await workshop.start("import sys\nwhile True: sys.stdout.write('x' * 65536)")
    await until(lambda: bool(seen.exits), "not given up", 20)
    assert seen.exits[0].code == "upstream-line-too-large"
    await child.wait()
    assert len(seen.exits) == 1


async def test_an_orderly_server_ends_when_stdin_closes(workshop: Workshop) -> None:
    child, seen = await workshop.start(ECHO.replace("ANSWER", "1"))
    child.send(request(1, "ask"))
    await until(lambda: bool(seen.messages), "no answer")
    begun = time.monotonic()
    child.stop()
    await child.wait()
    assert time.monotonic() - begun < limits.CHILD_STOP_SECONDS
    assert [error.code for error in seen.exits] == ["upstream-exited"]


STUBBORN = """
import os, signal, sys, time, subprocess
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for fd in range(3): os.close(fd)
        os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(1000)', 'MARK'])
    os._exit(0)
print('{"jsonrpc":"2.0","method":"ready"}', flush=True)
while True: time.sleep(1)
"""


async def test_t62_a_server_that_ignores_signals_ends_with_its_daemons(workshop: Workshop) -> None:
    mark = f"daemon-{os.getpid()}-a"
    child, seen = await workshop.start(STUBBORN.replace("MARK", mark))
    await until(lambda: bool(seen.messages) and bool(processes_with(mark)), "no daemon")
    child.stop()
    await child.wait()
    await until(lambda: not processes_with(mark), "a daemon outlived its server")


async def test_sigterm_reaches_a_caged_server(workshop: Workshop) -> None:
    script = """
import signal, sys, time
def bye(*_):
    print('{"jsonrpc":"2.0","method":"bye"}', flush=True); sys.exit(0)
signal.signal(signal.SIGTERM, bye)
print('{"jsonrpc":"2.0","method":"ready"}', flush=True)
while True: time.sleep(1)
"""
    child, seen = await workshop.start(script)
    await until(lambda: bool(seen.messages), "not ready")
    child.stop()
    await child.wait()
    assert [message.method for message in seen.messages] == ["ready", "bye"]


async def test_without_a_cage_the_process_group_ends_too(workshop: Workshop) -> None:
    mark = f"group-{os.getpid()}"
    script = f"""
import subprocess, sys, time
subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)', {mark!r}])
print('{{"jsonrpc":"2.0","method":"ready"}}', flush=True)
while True: time.sleep(1)
"""
    child, seen = await workshop.start(script, sandbox="none")
    await until(lambda: bool(seen.messages) and bool(processes_with(mark)), "no child")
    child.stop()
    await child.wait()
    await until(lambda: not processes_with(mark), "a child outlived its server")


def test_the_tree_dies_when_its_supervisor_is_killed(tmp_path: Path) -> None:
    mark = f"orphan-{os.getpid()}"
    (tmp_path / "data").mkdir()
    (tmp_path / "server.py").write_text(STUBBORN.replace("MARK", mark))
    supervisor = f"""
import asyncio, sys
from pathlib import Path
from doorward.adapters.cage import Cage
from doorward.adapters.cgroup import ProcessGroups
from doorward.adapters.stdio_child import StdioChild
from doorward.catalogue.server import ServerSpec
class Events:
    def on_message(self, message): print("ready", flush=True)
    def on_malformed(self): pass
    def on_exit(self, error): print(error.detail, flush=True)
async def main():
    launch = Cage(Path("data"), Path(".")).launch(ServerSpec(name="x", command=({PYTHON!r}, "server.py")), {{}})
    child = StdioChild("x", launch, Events(), ProcessGroups())
    await child.start()
    await asyncio.sleep(1000)
asyncio.run(main())
"""
    process = subprocess.Popen([PYTHON, "-c", supervisor], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    end = time.monotonic() + 5
    while not processes_with(mark):
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    while processes_with(mark) or processes_with(f"{tmp_path}/server.py"):
        assert time.monotonic() < end + 5, "the tree outlived its supervisor"
        time.sleep(0.02)


async def test_a_caged_server_cannot_use_the_keyring_of_who_started_it(workshop: Workshop) -> None:
    expression = (
        "(lambda c: (c.CDLL(None, use_errno=True).syscall("
        "250 if __import__('platform').machine() == 'x86_64' else 219, 0, -3, 0, 0, 0), c.get_errno()))"
        "(__import__('ctypes'))"
    )
    assert await workshop.ask(expression) == [-1, 1]  # keyctl: EPERM
