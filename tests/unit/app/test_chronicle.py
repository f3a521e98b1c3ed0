from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.unit.app.test_supervisor import importable, start, until, write_settings  # noqa: F401 - a fixture

from doorward.adapters.ledger_read import LedgerReader, Question, find_public_key, verify_folder
from doorward.app.supervisor import Supervisor
from doorward.base.errors import StoreError

pytestmark = pytest.mark.anyio
WEB = """
[servers.web]
url = "http://127.0.0.1:9/mcp"
credentials = { type = "header", value = { file = "key" } }
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def rows(folder: Path) -> list[tuple[str, str, str, str]]:
    found = LedgerReader(folder / "data").rows(Question(limit=0))
    return [(str(r["kind"]), str(r["method"]), str(r["principal"]), str(r["reason"])) for r in found][::-1]


async def end(supervisor: Supervisor, task: asyncio.Task[int]) -> None:
    supervisor.stop()
    assert await asyncio.wait_for(task, 20) == 0


async def test_what_operators_and_servers_do_is_on_record_and_verifies(tmp_path: Path) -> None:
    bare = (
        '[servers.bare]\ncommand = ["/bin/cat"]\nsandbox = "none"\n[controls.limit-rate]\nmode = "report"\n'
    )
    path = write_settings(tmp_path, bare, workers=1)
    supervisor, task = await start(path)
    await supervisor.revoke("token-1", 9e9, "os:7")
    text = path.read_text()
    path.write_text(text + "nonsense = 1\n")
    assert not await supervisor.reload("signal", force=True)
    path.write_text(text + "[limits]\ncalls = 9\n")
    assert await supervisor.reload("os:7", force=True)
    await end(supervisor, task)
    found = rows(tmp_path)
    methods = [method for _, method, _, _ in found]
    assert methods[:3] == ["doorward-started", "server-uncaged", "control-weakened"]
    assert methods[-1] == "doorward-stopped"
    assert ("admin", "token-revoked", "os:7", "") in found
    refused = next(one for one in found if one[1] == "settings-refused")
    assert refused[2] == "signal"
    assert refused[3].startswith("settings-")
    assert any(one[1:3] == ("settings-activated", "os:7") for one in found)
    data = tmp_path / "data"
    report = verify_folder(data, find_public_key(data))
    assert report.ok, report.problems


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ('[policy]\nfiles = ["bad.cedar"]\n', "policy-"),
        ('[policy]\nfiles = ["absent.cedar"]\n', "policy-"),
        (
            WEB.replace("key", "absent"),
            "secret-",
        ),
        (
            WEB.replace("key", "two-lines"),
            "secret-invalid",
        ),
        ("[limits]\ncalls = 7\nper_seconds = 99999999\n", ""),
    ],
)
async def test_a_change_that_cannot_work_is_refused_whole_before_anything_switches(
    tmp_path: Path, more: str, code: str
) -> None:
    (tmp_path / "bad.cedar").write_text("permit (principal, action, resource) when { nonsense };")
    (tmp_path / "two-lines").write_bytes(b"abc\r\nX-Evil: 1")
    (tmp_path / "two-lines").chmod(0o600)
    path = write_settings(tmp_path, workers=1)
    supervisor, task = await start(path)
    before = (supervisor.settings, supervisor.generation, supervisor.revision, supervisor.pool)
    path.write_text(path.read_text() + more)
    assert not await supervisor.reload("test", force=True)
    assert (supervisor.settings, supervisor.generation, supervisor.revision, supervisor.pool) == before
    assert supervisor.last_reload_error is not None
    assert supervisor.last_reload_error["code"].startswith(code), supervisor.last_reload_error
    assert supervisor.workers[0].is_ready
    await end(supervisor, task)


async def test_a_reload_that_is_in_force_asks_for_nothing_that_could_be_gone_by_then(tmp_path: Path) -> None:
    secret = tmp_path / "key"
    secret.write_text("s3cret")
    secret.chmod(0o600)
    path = write_settings(tmp_path, workers=1)
    supervisor, task = await start(path)
    path.write_text(path.read_text() + WEB)
    assert await supervisor.reload("test", force=True)
    secret.unlink()
    await supervisor.revoke("x", 9e9, "test")  # pushes a snapshot
    await until(lambda: "x" in supervisor.workers[0].numbers.get("revoked", []), 5)
    await end(supervisor, task)


async def test_a_supervisor_that_cannot_write_its_log_ends(tmp_path: Path) -> None:
    supervisor, task = await start(write_settings(tmp_path, workers=1))
    assert supervisor.chronicle is not None
    supervisor.chronicle._log._fail("ledger-write", OSError("no space"))
    with pytest.raises(StoreError) as caught:
        await asyncio.wait_for(task, 20)
    assert caught.value.code == "ledger-write"
