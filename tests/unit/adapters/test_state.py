from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from doorward.adapters import state
from doorward.adapters.state import State
from doorward.base.errors import StoreError


def shape(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Tables with their columns as SQLite understands them, not as they are written."""
    with sqlite3.connect(path) as connection:
        names = [
            row[0]
            for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        ]
        found = {name: connection.execute(f"PRAGMA table_info({name})").fetchall() for name in names}
        version = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    connection.close()
    return {**found, "version": version}


def test_a_new_file_has_the_schema_that_the_migrations_end_in(tmp_path: Path) -> None:
    State(tmp_path).close()
    migrated = tmp_path / "migrated.db"
    migrated.touch()
    state.migrate(migrated)
    assert shape(tmp_path / state.FILE) == shape(migrated)
    assert [row[0] for row in shape(migrated)["version"]] == [state.HEAD]


def test_what_is_remembered_outlives_a_restart(tmp_path: Path) -> None:
    first = State(tmp_path)
    assert (tmp_path / state.FILE).stat().st_mode & 0o777 == 0o600
    one = first.add_revision("sha256:a", b"x", 1.0, "start")
    first.revoke("t", until=100.0, at=1.0, by="os:0")
    first.revoke("t", until=50.0, at=2.0, by="os:0")
    first.revoke("old", until=5.0, at=1.0, by="os:0")
    assert first.mark_once("s", "k", expires_at=100.0, now=1.0)
    first.close()
    again = State(tmp_path)
    assert again.revoked(now=60.0) == ["t"]
    assert not again.mark_once("s", "k", expires_at=100.0, now=2.0)
    assert again.mark_once("s", "k", expires_at=300.0, now=200.0)
    assert again.add_revision("sha256:a", b"x", 2.0, "start") == one + 1
    assert [row[:2] for row in again.revisions()] == [(one + 1, "sha256:a"), (one, "sha256:a")]
    again.close()


def test_a_file_of_a_newer_doorward_and_one_that_is_none_are_refused(tmp_path: Path) -> None:
    State(tmp_path).close()
    with sqlite3.connect(tmp_path / state.FILE) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(StoreError) as newer:
        State(tmp_path)
    assert newer.value.code == "state-unusable"
    (tmp_path / state.FILE).write_bytes(b"this is no database, and long enough to be seen as none" * 20)
    with pytest.raises(StoreError):
        State(tmp_path)


def test_a_kept_row_is_replaced_only_by_who_saw_it(tmp_path: Path) -> None:
    kept = State(tmp_path)
    assert kept.kept("grants", "a", now=1.0) is None
    assert kept.replace("grants", "a", b"1", seen=0, now=1.0)
    assert not kept.replace("grants", "a", b"2", seen=0, now=1.0)
    assert kept.kept("grants", "a", now=1.0) == (b"1", 1)
    assert kept.replace("grants", "a", b"2", seen=1, now=1.0)
    assert not kept.replace("grants", "a", b"3", seen=1, now=1.0)
    kept.keep("grants", "a", b"4")
    assert kept.kept("grants", "a", now=1.0) == (b"4", 3)
    kept.close()


def test_a_kept_row_is_taken_once_and_never_after_its_time(tmp_path: Path) -> None:
    kept = State(tmp_path)
    kept.keep("codes", "a", b"x", expires_at=10.0)
    kept.keep("codes", "b", b"y", expires_at=10.0)
    kept.keep("codes", "c", b"z")
    assert kept.all_kept("codes", now=9.0) == {"a": b"x", "b": b"y", "c": b"z"}
    assert kept.take("codes", "a", now=9.0) == b"x"
    assert kept.take("codes", "a", now=9.0) is None
    assert kept.take("codes", "b", now=10.0) is None
    assert kept.kept("codes", "c", now=99.0) == (b"z", 1)
    assert kept.all_kept("codes", now=99.0) == {"c": b"z"}
    assert kept.drop("codes", "c")
    assert not kept.drop("codes", "c")
    kept.close()
