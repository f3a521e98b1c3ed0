from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.ports import free_port

from doorward.app.supervisor import Supervisor
from doorward.base.errors import CallerError, OperatorError
from doorward.settings import load

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[3]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def until(condition: Callable[[], object], seconds: float = 15) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def write_settings(folder: Path, more: str = "", workers: int = 2) -> Path:
    path = folder / "doorward.toml"
    path.write_text(
        f'[gateway]\nlisten = "127.0.0.1:{free_port()}"\nworkers = {workers}\ndata_dir = "{folder}/data"\n'
        f'[admin]\nlisten = "127.0.0.1:{free_port()}"\n{more}'
    )
    return path


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


async def start(path: Path) -> tuple[Supervisor, asyncio.Task[int]]:
    ready = asyncio.Event()
    supervisor = Supervisor(
        load(path), on_ready=ready.set, worker_module="tests.stand_ins.fake_worker", admin="none"
    )
    task = asyncio.ensure_future(supervisor.run())
    waiting = asyncio.ensure_future(ready.wait())
    await asyncio.wait({task, waiting}, timeout=20, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if task.done():
        await task
    assert ready.is_set()
    return supervisor, task


async def test_workers_get_a_snapshot_and_ticks_and_reach_each_other_through_the_supervisor(
    tmp_path: Path,
) -> None:
    supervisor, task = await start(write_settings(tmp_path))
    await until(lambda: all(worker.numbers.get("ticks", 0) > 1 for worker in supervisor.workers.values()))
    numbers = {index: worker.numbers for index, worker in supervisor.workers.items()}
    assert numbers[0]["marks"] == numbers[1]["marks"] == [True, False]
    assert numbers[1]["relay"] == [0, "y", "hello"]
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    pids = [worker.pid for worker in supervisor.workers.values()]
    supervisor.stop()
    assert await asyncio.wait_for(task, 20) == 0
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_a_second_doorward_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    path = write_settings(tmp_path, workers=1)
    supervisor, task = await start(path)
    with pytest.raises(OperatorError) as caught:
        await start(path)
    assert caught.value.code == "data-dir-busy"
    supervisor.stop()
    assert await asyncio.wait_for(task, 20) == 0


async def test_a_killed_worker_is_replaced(tmp_path: Path) -> None:
    supervisor, task = await start(write_settings(tmp_path))
    old = supervisor.workers[0].pid
    os.kill(old, signal.SIGKILL)
    await until(lambda: 0 in supervisor.workers and supervisor.workers[0].pid != old)
    await until(lambda: supervisor.workers[0].is_ready)
    assert supervisor.restarts == 1
    supervisor.stop()
    assert await asyncio.wait_for(task, 20) == 0


async def test_a_revocation_reaches_all_workers_in_less_than_two_seconds_and_outlives_a_restart(
    tmp_path: Path,
) -> None:
    path = write_settings(tmp_path)
    supervisor, task = await start(path)
    await supervisor.revoke("token-1", 9e9, "os:0")
    await until(
        lambda: all("token-1" in w.numbers.get("revoked", []) for w in supervisor.workers.values()), 2
    )
    with pytest.raises(CallerError):
        await supervisor.revoke("", 9e9, "os:0")
    supervisor.stop()
    await asyncio.wait_for(task, 20)
    before = supervisor.generation
    supervisor, task = await start(path)
    assert supervisor.workers[0].numbers["revoked"] == ["token-1"]
    assert supervisor.generation > before
    supervisor.stop()
    await asyncio.wait_for(task, 20)


async def test_a_changed_file_takes_effect_and_a_bad_one_changes_nothing(tmp_path: Path) -> None:
    path = write_settings(tmp_path, workers=1)
    supervisor, task = await start(path)
    first = supervisor.generation
    good = path.read_text() + "[limits]\ncalls = 7\n"
    path.write_text(good)
    await until(lambda: supervisor.settings.limits.calls == 7)
    await until(lambda: supervisor.workers[0].numbers["generation"] > first)
    now = supervisor.generation
    path.write_text(good + "nonsense = 1\n")
    await until(lambda: supervisor.last_reload_error)
    assert supervisor.last_reload_error is not None
    assert "nonsense" in supervisor.last_reload_error["tell"]
    assert supervisor.generation == now
    path.write_text(good.replace("workers = 1", "workers = 2"))
    assert not await supervisor.reload("test")
    assert supervisor.last_reload_error["code"] == "settings-restart"
    path.write_text(good)
    assert await supervisor.reload("test")
    supervisor.stop()
    assert await asyncio.wait_for(task, 20) == 0


async def test_a_mark_is_given_once_whichever_workers_ask_for_it(tmp_path: Path) -> None:
    supervisor, task = await start(write_settings(tmp_path, workers=3))
    await until(lambda: all("shared" in one.numbers for one in supervisor.workers.values()))
    assert sorted(one.numbers["shared"] for one in supervisor.workers.values()) == [False, False, True]
    supervisor.stop()
    assert await task == 0


async def test_a_worker_that_dies_while_another_still_starts_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = tmp_path / "gate"
    monkeypatch.setenv("FAKE_WORKER_GATE", str(gate))
    ready = asyncio.Event()
    supervisor = Supervisor(
        load(write_settings(tmp_path)),
        on_ready=ready.set,
        worker_module="tests.stand_ins.fake_worker",
        admin="none",
    )
    task = asyncio.ensure_future(supervisor.run())
    await until(lambda: 0 in supervisor.workers and supervisor.workers[0].is_ready)
    first = supervisor.workers[0].pid
    os.kill(first, signal.SIGKILL)
    await until(
        lambda: (
            0 in supervisor.workers and supervisor.workers[0].pid != first and supervisor.workers[0].is_ready
        )
    )
    assert not ready.is_set()
    gate.write_text("")
    await until(ready.is_set)
    supervisor.stop()
    assert await task == 0


async def test_what_one_worker_hears_of_a_changed_list_the_others_are_told(tmp_path: Path) -> None:
    path = write_settings(tmp_path, '[servers.known]\nurl = "http://127.0.0.1:1/mcp"\n')
    supervisor, task = await start(path)
    await until(lambda: supervisor.workers[0].numbers.get("changed"))
    assert supervisor.workers[0].numbers["changed"] == [{"server": "known"}]
    assert "changed" not in supervisor.workers[1].numbers
    supervisor.stop()
    assert await asyncio.wait_for(task, 20) == 0
