from __future__ import annotations

import multiprocessing
import os
import stat
import threading
from typing import TYPE_CHECKING

import pytest

from doorward.adapters import key_files
from doorward.base.errors import OperatorError

if TYPE_CHECKING:
    from pathlib import Path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_keys_are_made_once_and_closed_to_others(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    first = key_files.load_or_create_keys(data_dir)
    assert key_files.load_or_create_keys(data_dir).current.kid == first.current.kid
    assert mode(data_dir / "keys") == 0o700
    assert mode(data_dir / "keys" / key_files.TOKEN_KEYS_FILE) == 0o600
    assert os.listdir(data_dir / "keys") == [key_files.TOKEN_KEYS_FILE]


def test_a_loose_umask_changes_nothing(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        key_files.load_or_create_secret(tmp_path, "session")
    finally:
        os.umask(before)
    assert mode(tmp_path / "keys") == 0o700
    assert mode(tmp_path / "keys" / "session.secret") == 0o600


def test_secrets_and_ledger_keys_stay_the_same(tmp_path: Path) -> None:
    assert key_files.load_or_create_secret(tmp_path, "session") == key_files.load_or_create_secret(
        tmp_path, "session"
    )
    assert key_files.load_or_create_secret(tmp_path, "session") != key_files.load_or_create_secret(
        tmp_path, "digest"
    )
    first = key_files.load_or_create_ed25519(tmp_path, "ledger")
    again = key_files.load_or_create_ed25519(tmp_path, "ledger")
    assert first.public_key().public_bytes_raw() == again.public_key().public_bytes_raw()


def test_threads_that_race_get_one_key(tmp_path: Path) -> None:
    found: list[str] = []
    gate = threading.Barrier(8)

    def load() -> None:
        gate.wait(5)
        found.append(key_files.load_or_create_keys(tmp_path).current.kid)

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert len(found) == 8
    assert len(set(found)) == 1
    assert os.listdir(tmp_path / "keys") == [key_files.TOKEN_KEYS_FILE]


def _load_in_process(data_dir: Path, kids: multiprocessing.SimpleQueue[str]) -> None:
    kids.put(key_files.load_or_create_keys(data_dir).current.kid)


def test_processes_that_race_get_one_key(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    kids: multiprocessing.SimpleQueue[str] = context.SimpleQueue()
    processes = [context.Process(target=_load_in_process, args=(tmp_path, kids)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(20)
        assert process.exitcode == 0
    assert len({kids.get() for _ in processes}) == 1


def test_rotation_keeps_the_old_key_for_verifying(tmp_path: Path) -> None:
    old = key_files.load_or_create_keys(tmp_path)
    new = key_files.rotate_keys(tmp_path)
    again = key_files.load_or_create_keys(tmp_path)
    assert again.current.kid == new.current.kid != old.current.kid
    assert [key["kid"] for key in again.retired] == [old.current.kid]
    assert mode(tmp_path / "keys" / key_files.TOKEN_KEYS_FILE) == 0o600


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o666])
def test_a_key_file_that_others_can_reach_is_refused(tmp_path: Path, bits: int) -> None:
    key_files.load_or_create_keys(tmp_path)
    (tmp_path / "keys" / key_files.TOKEN_KEYS_FILE).chmod(bits)
    with pytest.raises(OperatorError) as caught:
        key_files.load_or_create_keys(tmp_path)
    assert caught.value.code == "key-file-open"


def test_a_keys_folder_that_others_can_reach_is_refused(tmp_path: Path) -> None:
    key_files.load_or_create_keys(tmp_path)
    (tmp_path / "keys").chmod(0o755)
    with pytest.raises(OperatorError) as caught:
        key_files.load_or_create_keys(tmp_path)
    assert caught.value.code == "key-file-open"


def test_a_link_in_place_of_a_key_is_not_followed(tmp_path: Path) -> None:
    key_files.load_or_create_secret(tmp_path, "session")
    (tmp_path / "keys" / "digest.secret").symlink_to(tmp_path / "keys" / "session.secret")
    with pytest.raises(OperatorError) as caught:
        key_files.load_or_create_secret(tmp_path, "digest")
    assert caught.value.code == "key-file-unusable"


def test_a_cut_or_foreign_key_file_is_refused(tmp_path: Path) -> None:
    key_files.load_or_create_secret(tmp_path, "session")
    key_files.load_or_create_ed25519(tmp_path, "ledger")
    for name in ("session.secret", "ledger.pem"):
        (tmp_path / "keys" / name).write_bytes(b"cut")
    with pytest.raises(OperatorError, match="key-file-broken"):
        key_files.load_or_create_secret(tmp_path, "session")
    with pytest.raises(OperatorError, match="key-file-broken"):
        key_files.load_or_create_ed25519(tmp_path, "ledger")


def test_a_file_where_the_folder_should_be_is_told_without_a_path(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("x")
    with pytest.raises(OperatorError) as caught:
        key_files.load_or_create_keys(tmp_path)
    assert caught.value.code == "key-file-unusable"
    assert str(tmp_path) not in caught.value.tell
