from __future__ import annotations

import asyncio
import http.client
import re
from pathlib import Path

import pytest
from tests.unit.app.test_supervisor import ROOT, until, write_settings

from doorward.adapters.admin_client import AdminClient
from doorward.app.metrics import METRICS
from doorward.app.supervisor import Supervisor
from doorward.settings import load

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
    same_metrics(text.decode())
    assert (await asyncio.to_thread(lambda: tcp("/", Host="evil.example")))[0] == 403
    assert (await asyncio.to_thread(lambda: tcp("/", Origin="http://evil.example")))[0] == 403
    supervisor.stop()
    assert await asyncio.wait_for(task, 20) == 0


def same_metrics(text: str) -> None:
    """The page, the list and the reference name the same metrics with the same words."""
    assert "\ndoorward_workers 2" in text
    page = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    assert page == {one.name: one.kind for one in METRICS}
    document = (ROOT / "docs/reference/metrics.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.+?) \| (.+) \|$", document, re.MULTILINE)
    assert rows == [
        (one.name, one.kind, ", ".join(f"`{label}`" for label in one.labels) or "-", one.help)
        for one in METRICS
    ]


def test_a_metric_never_has_a_label_that_names_a_person() -> None:
    for one in METRICS:
        assert not {"principal", "client", "address", "item", "session"} & set(one.labels)
