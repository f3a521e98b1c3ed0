from __future__ import annotations

import asyncio
import http.client
from pathlib import Path

import pytest

from doorward.adapters.admin_client import AdminClient
from doorward.app.supervisor import Supervisor
from doorward.settings import load
from tests.unit.app.test_supervisor import ROOT, until, write_settings

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_the_socket_serves_its_owner_and_tcp_wants_host_origin_and_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    ready = asyncio.Event()
    supervisor = Supervisor(
        load(write_settings(tmp_path)), on_ready=ready.set, worker_module="tests.stand_ins.fake_worker"
    )
    task = asyncio.ensure_future(supervisor.run())
    await asyncio.wait_for(ready.wait(), 15)
    data = tmp_path / "data"

    def tcp(path: str, **fields: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(supervisor.settings.admin.listen, timeout=5)
        try:
            connection.request("GET", path, headers=fields)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    async def listening() -> bool:
        try:
            return (await asyncio.to_thread(tcp, "/"))[0] == 200
        except OSError:
            return False

    async with asyncio.timeout(10):
        while not await listening():
            await asyncio.sleep(0.02)
    client = AdminClient(data)
    await until(lambda: (data / "admin.sock").exists())
    assert (data / "admin.sock").stat().st_mode & 0o777 == 0o600
    assert (data / "admin-token").stat().st_mode & 0o777 == 0o600
    assert (await asyncio.to_thread(client.get, "/api/v1/status"))["workers"] == 2
    assert await asyncio.to_thread(client.post, "/api/v1/revocations", {"jti": "x", "until": 9e9}) == {
        "revoked": "x"
    }
    await until(lambda: all("x" in one.numbers.get("revoked", []) for one in supervisor.workers.values()), 2)
    token = (data / "admin-token").read_text().strip()
    assert (await asyncio.to_thread(tcp, "/metrics"))[0] == 401
    assert (await asyncio.to_thread(lambda: tcp("/metrics", Authorization="Bearer wrong")))[0] == 401
    status, text = await asyncio.to_thread(lambda: tcp("/metrics", Authorization=f"Bearer {token}"))
    assert status == 200
    assert b"doorward_workers 2" in text
    assert (await asyncio.to_thread(lambda: tcp("/", Host="evil.example")))[0] == 403
    assert (await asyncio.to_thread(lambda: tcp("/", Origin="http://evil.example")))[0] == 403
    supervisor.stop()
    assert await asyncio.wait_for(task, 20) == 0
