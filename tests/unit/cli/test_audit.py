"""``doorward audit`` over a real ledger folder."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from doorward.adapters.key_files import load_or_create_ed25519
from doorward.adapters.ledger_files import LedgerWriter
from doorward.adapters.ledger_read import LedgerReader
from doorward.adapters.ledger_signer import KEY_NAME, LedgerSigner
from doorward.audit.record import Records
from doorward.base.clock import SystemClock
from doorward.base.errors import OperatorError
from doorward.base.ids import EventIds
from doorward.cli import audit

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    signer = LedgerSigner(tmp_path, load_or_create_ed25519(tmp_path, KEY_NAME))

    async def sign(origin: str, size: int, root: bytes) -> str:
        return signer.sign(origin, size, root)

    ids, made = EventIds(), []
    for name, user in (("w0", "alice"), ("w1", "bob")):
        writer = LedgerWriter(tmp_path / "ledger", signer.origin_of(name), sign, SystemClock(), 10)
        await writer.start()
        records = Records(writer.origin, bytes(32))
        for number in range(6):
            event = ids.mint()
            made.append(event)
            refused = (
                {"verdict": "refuse", "control": "ask-policy", "reason": "no role"} if number == 5 else {}
            )
            writer.append(
                records.decision(
                    event=event, at=1_800_000_000 + len(made), era="modern", tenant="t", principal=user, client="c",
                    server="time", method="tools/call", item=f"tool-{number}", **refused,
                )
            )  # fmt: skip
            if not refused:
                writer.append(
                    records.outcome(
                        event=event, at=1_800_000_100, outcome="ok", upstream_requests=1, duration_us=9
                    )
                )
        await writer.close()
    monkeypatch.setattr(audit, "_data_dir", lambda config: tmp_path)
    return made


def said(capsys: pytest.CaptureFixture[str]):
    return json.loads(capsys.readouterr().out)


async def test_query_gives_rows_of_all_logs_newest_first_and_filters(events, capsys) -> None:
    assert audit.query(as_json=True) == 0
    rows = said(capsys)
    assert [row["event"] for row in rows] == events[::-1]
    assert {row["outcome"] for row in rows} == {"ok", "error"}
    for told, count in (
        ({"principal": "bob"}, 6), ({"tool": "tool-1"}, 2), ({"verdict": "refuse"}, 2), ({"control": "ask-policy"}, 2),
        ({"server": "other"}, 0), ({"event": events[3]}, 1), ({"kind": "auth"}, 0), ({"limit": 4}, 4),
        ({"since": "2027-01-15T08:00:07Z"}, 6), ({"until": "2027-01-15T09:00:07+01:00"}, 6), ({"since": "1s"}, None),
        ({"raw": True}, 22), ({"limit": 0}, 12),
    ):  # fmt: skip
        audit.query(as_json=True, **told)
        rows = said(capsys)
        assert count is None or len(rows) == count, told


async def test_show_explains_one_event(events, capsys) -> None:
    assert audit.show(events[5]) == 0
    assert "ask-policy refused it: no role." in capsys.readouterr().out
    assert audit.show(events[0], as_json=True) == 0
    assert [record["record"] for record in said(capsys)["records"]] == ["decision", "outcome"]
    assert audit.show("01M85NT5GKAZ2A8MH16TH3YS9R") == 1


async def test_verify_exits_with_what_it_found(events, capsys, tmp_path: Path) -> None:
    assert audit.verify(as_json=True) == 0
    found = said(capsys)
    assert (found["ok"], found["entries"], found["completeness"]) == (True, 22, "unwitnessed")
    note = next((tmp_path / "ledger").glob("*/checkpoint"))
    assert audit.verify(as_json=True, checkpoint=(note,)) == 0
    assert said(capsys)["completeness"] == "witnessed"
    tail = next((tmp_path / "ledger").glob("*/tail/*"))
    tail.write_bytes(tail.read_bytes()[:-1])
    assert audit.verify() == 1
    assert "does NOT hold" in capsys.readouterr().out
    with pytest.raises(OperatorError, match="audit-checkpoint"):
        audit.verify(checkpoint=(tmp_path / "none",))
    with pytest.raises(OperatorError, match="vkey-broken"):
        audit.verify(vkey="x")


async def test_tail_shows_the_last_rows_oldest_first(events, capsys) -> None:
    assert audit.tail(lines=3) == 0
    assert [line.split("\t")[1] for line in capsys.readouterr().out.splitlines()] == events[-3:]


async def test_following_reads_only_what_is_new(events, tmp_path: Path) -> None:
    reader = LedgerReader(tmp_path)
    seen = dict.fromkeys(reader.logs(), 9)
    assert len(reader.newer(seen)) == 2
    assert reader.newer(seen) == []
    assert seen == reader.ends()


def test_times_that_are_none_are_refused() -> None:
    assert audit.moment_of("2h", 7_200) == "1970-01-01T00:00:00.000Z"
    for text in ("yesterday", "9999999h", "\u0663h", "2026-13-01"):
        with pytest.raises(OperatorError, match="audit-time"):
            audit.moment_of(text, time.time())


def test_settings_name_the_folder(tmp_path: Path) -> None:
    file = tmp_path / "doorward.toml"
    file.write_text('[gateway]\ndata_dir = "./elsewhere"\n[servers.time]\ncommand = ["true"]\n')
    assert audit._data_dir(file).resolve() == (tmp_path / "elsewhere").resolve()
