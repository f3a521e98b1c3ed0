"""The ledger on a real disk: written, killed, continued, tampered with and verified."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from doorward.adapters.ledger_files import LedgerWriter
from doorward.adapters.ledger_read import LedgerReader, Question, find_public_key, verify_folder
from doorward.adapters.ledger_signer import LedgerSigner
from doorward.audit.record import Records
from doorward.base.clock import SystemClock
from doorward.base.errors import OperatorError, StoreError
from doorward.base.ids import EventIds

pytestmark = pytest.mark.anyio
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def make_writer(data_dir: Path, signer: LedgerSigner, name: str = "w0") -> LedgerWriter:
    async def sign(origin: str, size: int, root: bytes) -> str:
        return signer.sign(origin, size, root)

    return LedgerWriter(
        data_dir / "ledger", signer.origin_of(name), sign, SystemClock(), 10, public_key=signer.public_key
    )


@contextlib.asynccontextmanager
async def writing(data_dir: Path, name: str = "w0") -> AsyncIterator[LedgerWriter]:
    writer = make_writer(data_dir, LedgerSigner(data_dir, KEY), name)
    await writer.start()
    try:
        yield writer
    finally:
        await writer.close()


def fill(writer: LedgerWriter, count: int, size: int = 60) -> None:
    for number in range(count):
        writer.append(f"{writer.origin} {number} ".encode().ljust(size, b"."))
        if number % 7 == 0:
            writer.flush()
    writer.flush()


async def build(data_dir: Path) -> None:
    for name, counts in (("w0", (300, 257, 10)), ("w1", (5,)), ("supervisor", (0,))):
        for count in counts:
            async with writing(data_dir, name) as writer:
                fill(writer, count // 2)
                await writer.publish()
                fill(writer, count - count // 2)


def check(data_dir: Path) -> list[str]:
    return [problem.what for problem in verify_folder(data_dir, find_public_key(data_dir)).problems]


def files_of(data_dir: Path) -> list[Path]:
    return sorted(path for path in (data_dir / "ledger").rglob("*") if path.is_file())


async def test_what_was_written_over_several_lives_verifies(tmp_path: Path) -> None:
    await build(tmp_path)
    report = verify_folder(tmp_path, find_public_key(tmp_path))
    assert report.ok, report.problems
    assert report.entries == 572
    assert {(log["origin"].rpartition("/")[2], log["entries"], log["last_seq"]) for log in report.logs} == {
        ("w0", 567, 566), ("w1", 5, 4), ("supervisor", 0, None),
    }  # fmt: skip
    origin = LedgerSigner(tmp_path, KEY).origin_of("w0")
    assert next(LedgerReader(tmp_path).entries(origin)).seq == 566
    assert [stored.seq for stored in LedgerReader(tmp_path).entries(origin)] == list(range(566, -1, -1))


async def test_any_changed_byte_is_found(tmp_path: Path) -> None:
    await build(tmp_path / "d")
    files = [path for path in files_of(tmp_path / "d") if path.stat().st_size]
    chance = random.Random(7)
    wanted = [(path, chance.randrange(path.stat().st_size)) for path in files for _ in range(4)]
    for path, place in wanted:
        whole = path.read_bytes()
        changed = bytearray(whole)
        changed[place] ^= chance.randrange(1, 256)
        path.write_bytes(changed)
        assert check(tmp_path / "d"), f"{path} at {place}"
        path.write_bytes(whole)
    assert not check(tmp_path / "d")


async def test_any_missing_cut_longer_or_moved_file_is_found(tmp_path: Path) -> None:
    await build(tmp_path / "d")
    for path in files_of(tmp_path / "d"):
        whole = path.read_bytes()
        path.unlink()
        assert check(tmp_path / "d"), f"{path} gone"
        for content in (whole + b"x", whole[:-1], whole[: len(whole) // 2], b""):
            if content != whole:
                path.write_bytes(content)
                assert check(tmp_path / "d"), f"{path} cut or longer"
        path.write_bytes(whole)
        moved = path.with_name(path.name + "0")
        path.rename(moved)
        assert check(tmp_path / "d"), f"{path} moved"
        moved.rename(path)
    assert not check(tmp_path / "d")


async def test_swapped_files_are_found(tmp_path: Path) -> None:
    await build(tmp_path / "d")
    files = files_of(tmp_path / "d")
    for one, other in zip(files, files[1:], strict=False):
        first, second = one.read_bytes(), other.read_bytes()
        if first == second:
            continue
        one.write_bytes(second)
        other.write_bytes(first)
        assert check(tmp_path / "d"), f"{one} and {other}"
        one.write_bytes(first)
        other.write_bytes(second)


async def test_strange_files_links_and_lost_logs_are_found(tmp_path: Path) -> None:
    await build(tmp_path / "d")
    ledger = tmp_path / "d" / "ledger"
    folders = sorted(path for path in ledger.iterdir() if path.is_dir())
    for place in (ledger / "x", folders[0] / "x", ledger / "new" / "x", folders[1] / "tile" / "0" / "009"):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"")
        assert check(tmp_path / "d"), str(place)
        place.unlink()
    link = ledger / "link"
    link.symlink_to(folders[0])
    assert check(tmp_path / "d")
    link.unlink()
    checkpoint = folders[0] / "checkpoint"
    shutil.move(checkpoint, tmp_path / "aside")
    checkpoint.symlink_to(tmp_path / "aside")
    assert check(tmp_path / "d")
    checkpoint.unlink()
    shutil.move(tmp_path / "aside", checkpoint)
    for folder in folders:
        shutil.move(folder, tmp_path / "aside")
        assert "the whole log is missing" in check(tmp_path / "d")
        shutil.move(tmp_path / "aside", folder)
    shutil.move(ledger, tmp_path / "aside")
    assert check(tmp_path / "d").count("the whole log is missing") == 3


async def test_a_log_put_back_to_an_older_state_is_found(tmp_path: Path) -> None:
    async with writing(tmp_path / "d") as writer:
        fill(writer, 20)
    shutil.copytree(tmp_path / "d" / "ledger", tmp_path / "old")
    async with writing(tmp_path / "d") as writer:
        fill(writer, 20)
    shutil.rmtree(tmp_path / "d" / "ledger")
    shutil.move(tmp_path / "old", tmp_path / "d" / "ledger")
    assert any("shorter than what the signer" in what for what in check(tmp_path / "d"))
    with pytest.raises(StoreError, match="ledger-conflict"):
        async with writing(tmp_path / "d") as writer:
            pass


async def test_a_checkpoint_kept_elsewhere_witnesses_or_disproves(tmp_path: Path) -> None:
    async with writing(tmp_path / "d") as writer:
        fill(writer, 300)
    note = next((tmp_path / "d" / "ledger").glob("*/checkpoint")).read_bytes()
    async with writing(tmp_path / "d") as writer:
        fill(writer, 300)
    public_key = find_public_key(tmp_path / "d")
    assert verify_folder(tmp_path / "d", public_key, [note]).completeness == "witnessed"
    assert verify_folder(tmp_path / "d", public_key).completeness == "unwitnessed"
    report = verify_folder(tmp_path / "d", public_key, [note.replace(b"300", b"301")])
    assert (report.ok, report.completeness) == (False, "unwitnessed")
    other = LedgerSigner(tmp_path / "e", KEY)
    forged = other.sign(writer.origin, 300, bytes(32)).encode()
    assert not verify_folder(tmp_path / "d", public_key, [forged]).ok


KILLED = """
import asyncio, sys
from pathlib import Path
sys.path[:0] = {path!r}
from tests_ledger import make_writer, LedgerSigner, KEY
async def main():
    data_dir = Path(sys.argv[1])
    writer = make_writer(data_dir, LedgerSigner(data_dir, KEY))
    await writer.start()
    number = 0
    while True:
        for _ in range(20):
            writer.append(b"%d " % number + b"." * 200)
            number += 1
        writer.flush()
        sys.stdout.write(f"{{number}}\\n")
        sys.stdout.flush()
        if number % 100 == 0:
            await writer.publish()
        await asyncio.sleep(0)
asyncio.run(main())
"""


def kill_while_writing(data_dir: Path, tmp_path: Path) -> int:
    shutil.copy(__file__, tmp_path / "tests_ledger.py")
    program = KILLED.format(path=[str(tmp_path), *[entry for entry in sys.path if entry]])
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(data_dir)], stdout=subprocess.PIPE, text=True
    )
    flushed = 0
    chance = random.Random(str(data_dir)).randrange(300, 900)
    try:
        while flushed < chance:
            line = child.stdout.readline() if child.stdout else ""
            assert line, "the writer ended early"
            flushed = int(line)
    finally:
        child.send_signal(signal.SIGKILL)
        rest = child.communicate(timeout=5)[0]
    whole = [int(line) for line in rest.split("\n")[:-1]]
    return max([flushed, *whole])


@pytest.mark.parametrize("life", range(3))
async def test_a_killed_writer_loses_nothing_that_it_flushed(tmp_path: Path, life: int) -> None:
    data_dir = tmp_path / f"d{life}"
    flushed = await asyncio.to_thread(kill_while_writing, data_dir, tmp_path)
    assert check(data_dir) == []
    async with writing(data_dir) as writer:
        kept = writer.published
        assert kept >= flushed
        assert writer.problems == []
        writer.append(b"after")
    report = verify_folder(data_dir, find_public_key(data_dir))
    assert report.ok, report.problems
    assert report.entries == kept + 1
    entries = [stored.entry for stored in LedgerReader(data_dir).entries(writer.origin)][::-1]
    assert entries[-1] == b"after"
    assert [int(entry.split()[0]) for entry in entries[:-1]] == list(range(kept))


async def test_a_torn_last_write_is_cut_off_and_on_record(tmp_path: Path) -> None:
    async with writing(tmp_path) as writer:
        fill(writer, 3)
    tail = next((tmp_path / "ledger").glob("*/tail/*"))
    with tail.open("ab") as file:
        file.write(b"\x00\x00\x00\x30torn")
    assert check(tmp_path)
    async with writing(tmp_path) as writer:
        assert len(writer.problems) == 1
    assert check(tmp_path) == []
    [row] = LedgerReader(tmp_path).rows(Question(kind="server"))
    assert row["method"] == "ledger-torn"


async def test_a_log_that_does_not_match_its_checkpoint_is_not_continued(tmp_path: Path) -> None:
    async with writing(tmp_path) as writer:
        fill(writer, 300)
    folder = next(path for path in (tmp_path / "ledger").iterdir() if path.is_dir())
    for path in [
        *folder.glob("tile/[0-9]*/*.p/*"),
        *folder.glob("tile/entries/*.p/*"),
        folder / "checkpoint",
    ]:
        whole = path.read_bytes()
        changed = bytearray(whole)
        changed[len(changed) // 2] ^= 1
        path.write_bytes(changed)
        with pytest.raises(StoreError, match="ledger-mismatch"):
            await make_writer(tmp_path, LedgerSigner(tmp_path, KEY)).start()
        path.write_bytes(whole)
    async with writing(tmp_path):
        pass


async def test_two_writers_cannot_share_a_log(tmp_path: Path) -> None:
    async with writing(tmp_path):
        with pytest.raises(StoreError, match="ledger-busy"):
            await make_writer(tmp_path, LedgerSigner(tmp_path, KEY)).start()


async def test_synced_means_on_disk_and_a_failed_write_is_final(tmp_path: Path) -> None:
    async with writing(tmp_path) as writer:
        for _ in range(3):
            writer.append(b"x")
            done: asyncio.Future[StoreError | None] = asyncio.get_running_loop().create_future()
            writer.when_synced(done.set_result)
            assert await asyncio.wait_for(done, 5) is None
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, writer._tail)
        os.close(full)
        writer.append(b"y")
        with pytest.raises(StoreError, match="ledger-write"):
            writer.flush()
        with pytest.raises(StoreError, match="ledger-write"):
            writer.flush()
        failed: asyncio.Future[StoreError | None] = asyncio.get_running_loop().create_future()
        writer.when_synced(failed.set_result)
        assert await asyncio.wait_for(failed, 5) is not None
    assert check(tmp_path) == []  # what was flushed before is whole


async def test_a_log_without_signatures_stops(tmp_path: Path) -> None:
    signer = LedgerSigner(tmp_path, KEY)
    writer = make_writer(tmp_path, signer)
    told: list[StoreError] = []
    writer.on_failed = told.append
    await writer.start()
    signer._signed[writer.origin] = (99, "")
    writer.append(b"x")
    await until(lambda: writer.failed is not None)
    with pytest.raises(StoreError, match="ledger-unsigned"):
        writer.flush()
    assert [error.code for error in told] == ["ledger-unsigned"]
    await writer.close()


async def until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < limit
        await asyncio.sleep(0.01)


async def test_a_serving_log_verifies_and_publishes_by_itself(tmp_path: Path) -> None:
    async with writing(tmp_path) as writer:
        stop = asyncio.Event()

        async def serve() -> None:
            while not stop.is_set():
                fill(writer, 40)
                await asyncio.sleep(0.002)

        task = asyncio.create_task(serve())
        for _ in range(4):
            report = await asyncio.to_thread(verify_folder, tmp_path, find_public_key(tmp_path))
            assert report.ok, report.problems
        stop.set()
        await task
        await until(lambda: writer.published == writer._count)
        assert sum(1 for _ in (tmp_path / "ledger").glob("*/tile/*/*.p/*")) < 10


async def test_a_long_tail_is_started_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("doorward.adapters.ledger_files.TAIL_BYTES", 1_000)
    async with writing(tmp_path) as writer:
        for _ in range(4):
            fill(writer, 100)
            await writer.publish()
        assert [int(path.name) for path in (tmp_path / "ledger").glob("*/tail/*")] == [400]
    assert check(tmp_path) == []


async def test_calls_in_flight_are_not_unknown_until_the_writer_is_gone(tmp_path: Path) -> None:
    ids = EventIds()
    async with writing(tmp_path) as writer:
        records = Records(writer.origin, bytes(32))
        writer.append(
            records.decision(
                event=ids.mint(), at=time.time(), era="legacy", tenant="t", principal="alice", client="c",
                server="time", method="tools/call", item="now",
            )
        )  # fmt: skip
        writer.flush()
        [row] = LedgerReader(tmp_path).rows(Question(principal="alice", tool="now"))
        assert row["outcome"] is None
    [row] = LedgerReader(tmp_path).rows(Question(server="time", verdict="allow"))
    assert row["outcome"] == "unknown"
    async with writing(tmp_path):
        [row] = LedgerReader(tmp_path).rows(Question(event=row["event"]))
        assert row["outcome"] == "unknown"
    assert list(LedgerReader(tmp_path).rows(Question(principal="bob"))) == []


def test_a_folder_without_a_key_says_so(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="ledger-key"):
        find_public_key(tmp_path)


def test_the_signer_signs_no_log_back_or_aside(tmp_path: Path) -> None:
    signer = LedgerSigner(tmp_path, KEY)
    origin = signer.origin_of("w0")
    note = signer.sign(origin, 5, bytes(32))
    for again in (signer, LedgerSigner(tmp_path, KEY)):
        assert again.sign(origin, 5, bytes(32)) == note
        for size, root in ((4, bytes(32)), (5, b"\x01" * 32), (6, b"short")):
            with pytest.raises(StoreError, match="ledger-conflict"):
                again.sign(origin, size, root)
    with pytest.raises(StoreError):
        signer.sign("../x", 1, bytes(32))
