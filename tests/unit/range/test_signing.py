"""Signed results: whoever changes a byte of file or note is found out."""

from __future__ import annotations

from pathlib import Path

import pytest

from doorward.audit.checkpoint import read_vkey
from doorward.base.clock import FakeClock
from doorward.base.errors import OperatorError, TamperError
from doorward.range.signing import note_path, own_public_key, verify_signed, write_signed


@pytest.fixture
def signed(tmp_path: Path) -> tuple[Path, bytes]:
    path = tmp_path / "results.json"
    vkey = write_signed(path, [], tmp_path / "data", FakeClock())
    return path, read_vkey(vkey)[1]


def test_an_untouched_file_verifies_and_says_what_it_is(signed):
    path, key = signed
    assert verify_signed(path, key)[:2] == ["0 of 0 as expected", "2027-01-15T08:00:00.000Z"]
    assert own_public_key(path.parent / "data") == key


def test_a_changed_file_is_found_out(signed):
    path, key = signed
    path.write_bytes(b"[ ]")
    with pytest.raises(TamperError) as caught:
        verify_signed(path, key)
    assert caught.value.code == "range-changed"


def test_every_changed_byte_of_the_note_is_found_out(signed):
    path, key = signed
    note = note_path(path).read_bytes()
    for at in range(len(note)):
        note_path(path).write_bytes(note[:at] + bytes([note[at] ^ 1]) + note[at + 1 :])
        with pytest.raises(TamperError):
            verify_signed(path, key)


def test_the_note_of_another_key_does_not_do(signed, tmp_path):
    path, _ = signed
    other = tmp_path / "other.json"
    key = read_vkey(write_signed(other, [], tmp_path / "elsewhere"))[1]
    with pytest.raises(TamperError) as caught:
        verify_signed(path, key)
    assert caught.value.code == "note-unsigned"


def test_a_missing_note_and_a_folder_without_a_key_are_told(signed, tmp_path):
    path, key = signed
    note_path(path).unlink()
    with pytest.raises(OperatorError) as caught:
        verify_signed(path, key)
    assert caught.value.code == "range-unreadable"
    with pytest.raises(OperatorError) as caught:
        own_public_key(tmp_path / "nothing")
    assert caught.value.code == "range-key"
