"""Whole files are written while the log goes on; nothing relies on them, and a crash or a full disk harms nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from doorward.adapters import ledger_ahead
from doorward.adapters.ledger_files import LedgerWriter
from doorward.adapters.ledger_read import find_public_key, verify_folder
from doorward.adapters.ledger_signer import LedgerSigner
from doorward.base.clock import SystemClock
from doorward.base.errors import StoreError

pytestmark = pytest.mark.anyio
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def writing(data_dir: Path) -> AsyncIterator[LedgerWriter]:
    signer = LedgerSigner(data_dir, KEY)

    async def sign(origin: str, size: int, root: bytes) -> str:
        return signer.sign(origin, size, root)

    writer = LedgerWriter(
        data_dir / "ledger", signer.origin_of("w0"), sign, SystemClock(), 10, public_key=signer.public_key
    )
    await writer.start()
    try:
        yield writer
    finally:
        await writer.close()


def fill(writer: LedgerWriter, begin: int, end: int) -> None:
    for number in range(begin, end):
        writer.append(f"entry {number}".encode())
        if number % 16 == 15:
            writer.flush()
    writer.flush()


def bundles(data_dir: Path) -> list[Path]:
    return sorted((data_dir / "ledger").glob("*/tile/entries/[0-9][0-9][0-9]"))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


def check(data_dir: Path) -> list[str]:
    report = verify_folder(data_dir, find_public_key(data_dir))
    return [f"{problem.file}: {problem.what}" for problem in report.problems]


async def test_whole_files_are_there_before_their_checkpoint_and_verify(tmp_path: Path) -> None:
    async with writing(tmp_path) as writer:
        fill(writer, 0, 1300)
        await until(lambda: len(bundles(tmp_path)) >= 4)
        assert writer.published == 0
        assert check(tmp_path) == []
        await writer.publish()
        assert writer.published == 1300
        fill(writer, 1300, 2600)
    assert check(tmp_path) == []


async def test_a_whole_file_that_outlived_its_tail_is_dropped(tmp_path: Path) -> None:
    async with writing(tmp_path) as writer:
        fill(writer, 0, 600)
    folder = bundles(tmp_path)[0].parents[2]
    for name in ("tile/entries/002", "tile/entries/004", "tile/0/002", "tile/0/003"):
        (folder / name).write_bytes(b"lost to a power cut")
    assert "not part of the log" in " ".join(check(tmp_path))
    async with writing(tmp_path) as writer:
        assert check(tmp_path) == []
        fill(writer, 600, 1400)
    assert check(tmp_path) == []


async def test_a_whole_file_that_stands_for_the_partial_one_is_kept(tmp_path: Path) -> None:
    async with writing(tmp_path) as writer:
        fill(writer, 0, 600)
    folder = bundles(tmp_path)[0].parents[2]
    size, level = 600, {"entries": 2, "0": 2}
    for name, index in level.items():
        (folder / f"tile/{name}/{index:03d}").write_bytes(b"whole")
        next((folder / f"tile/{name}/{index:03d}.p").iterdir()).unlink()
        (folder / f"tile/{name}/{index + 1:03d}").write_bytes(b"beyond")
    ledger_ahead.drop_unpublished(folder, size)
    assert [(folder / f"tile/{name}/{index:03d}").exists() for name, index in level.items()] == [True, True]
    assert not any((folder / f"tile/{name}/{index + 1:03d}").exists() for name, index in level.items())


async def test_nothing_is_dropped_before_the_signer_has_agreed(tmp_path: Path) -> None:
    async with writing(tmp_path) as writer:
        fill(writer, 0, 10)
        await writer.publish()
        folder = next((tmp_path / "ledger").glob("*w0"))
        older = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        fill(writer, 10, 300)
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        if path in older:
            path.write_bytes(older[path])
    for path, content in older.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    evidence = bundles(tmp_path)
    assert evidence
    with pytest.raises(StoreError):
        async with writing(tmp_path):
            pass
    assert bundles(tmp_path) == evidence


async def test_a_disk_that_takes_no_file_ends_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    async with writing(tmp_path) as writer:
        monkeypatch.setattr(ledger_ahead, "place_file", full)
        fill(writer, 0, 1300)
        await until(
            lambda: (
                writer._batch.whole < ledger_ahead.AHEAD_FILES and writer._hashed + 32 > len(writer._unhashed)
            )
        )
        with pytest.raises(StoreError) as caught:
            await writer.publish()
        assert caught.value.code == "ledger-write"
        assert writer.published == 0
        with pytest.raises(StoreError):
            writer.append(b"more")
            writer.flush()


async def test_an_end_in_the_middle_of_a_publication_loses_nothing(tmp_path: Path) -> None:
    async with writing(tmp_path) as writer:
        fill(writer, 0, 5000)
        publishing = asyncio.create_task(writer.publish())
        await asyncio.sleep(0)
    await publishing
    assert check(tmp_path) == []
