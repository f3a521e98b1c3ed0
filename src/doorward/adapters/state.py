"""What Doorward remembers between starts: settings revisions, revoked tokens, marks that may be set once, and
what offices keep.

One SQLite file in ``data_dir``, write-ahead logged, readable by nobody else, written by the supervisor only. The schema is
in ``migrations``; a new file gets what they end in from ``NEWEST``, so that a start loads neither Alembic nor SQLAlchemy unless
an older file is to be brought up to date. All methods block: call them from a thread.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from doorward.base.errors import StoreError

FILE = "state.db"
HEAD = "0002"  # the newest migration; a test compares it with the folder
_BUSY_SECONDS = 5.0
# What the migrations end in; a test makes both and compares them.
NEWEST = f"""
BEGIN IMMEDIATE;
CREATE TABLE alembic_version (
    version_num VARCHAR(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
CREATE TABLE settings_revisions (
    generation INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, digest TEXT NOT NULL, settings BLOB NOT NULL,
    at FLOAT NOT NULL, "by" TEXT NOT NULL
);
CREATE TABLE revocations (
    jti TEXT NOT NULL, until FLOAT NOT NULL, at FLOAT NOT NULL, "by" TEXT NOT NULL, PRIMARY KEY (jti)
);
CREATE TABLE one_use_marks (
    space TEXT NOT NULL, "key" TEXT NOT NULL, expires_at FLOAT NOT NULL, PRIMARY KEY (space, "key")
);
CREATE TABLE kept (
    space TEXT NOT NULL, "key" TEXT NOT NULL, value BLOB NOT NULL, version INTEGER NOT NULL, expires_at FLOAT NOT NULL,
    PRIMARY KEY (space, "key")
);
INSERT INTO alembic_version (version_num) VALUES ('{HEAD}');
COMMIT;
"""  # noqa: S608 - a constant of ours


class State:
    """The opened state."""

    def __init__(self, data_dir: Path) -> None:
        """Open, and bring the schema up to date. Raises: StoreError ``state-unusable``."""
        self._path = data_dir / FILE
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            os.fchmod(descriptor, 0o600)
            os.close(descriptor)
            self._turn = threading.Lock()
            self._connection = _open(self._path)
            version = _version_of(self._connection)
            if not version:
                self._connection.executescript(NEWEST)
            elif version != HEAD:
                migrate(self._path)
        except (OSError, sqlite3.Error) as error:
            raise _unusable(error) from error

    def revoked(self, now: float) -> list[str]:
        """Token ids that are revoked and not yet expired; the others are dropped."""
        self._run("DELETE FROM revocations WHERE until <= :now", now=now)
        return [str(row[0]) for row in self._run("SELECT jti FROM revocations ORDER BY jti")]

    def revoke(self, jti: str, until: float, at: float, by: str) -> None:
        """Revoke a token until it would have expired anyway."""
        self._run(
            'INSERT INTO revocations (jti, until, at, "by") VALUES (:jti, :until, :at, :by)'
            " ON CONFLICT (jti) DO UPDATE SET until = max(until, excluded.until)",
            jti=jti,
            until=until,
            at=at,
            by=by,
        )

    def mark_once(self, space: str, key: str, expires_at: float, now: float) -> bool:
        """Set a mark; False when it stands already."""
        self._run("DELETE FROM one_use_marks WHERE expires_at <= :now", now=now)
        rows = self._run(
            "INSERT INTO one_use_marks (space, key, expires_at) VALUES (:space, :key, :until)"
            " ON CONFLICT DO NOTHING RETURNING 1",
            space=space,
            key=key,
            until=expires_at,
        )
        return bool(rows)

    # -- what offices keep ---------------------------------------------------------------------------------------

    def keep(self, space: str, key: str, value: bytes, *, expires_at: float = 0.0) -> None:
        """Write a row, whatever stood there. ``expires_at``: Unix seconds, 0 for never."""
        self._run(
            "INSERT INTO kept (space, key, value, version, expires_at) VALUES (:space, :key, :value, 1, :until)"
            " ON CONFLICT (space, key) DO UPDATE SET value = excluded.value, version = kept.version + 1,"
            " expires_at = excluded.expires_at",
            space=space,
            key=key,
            value=value,
            until=expires_at,
        )

    def keep_all(self, space: str, rows: Mapping[str, bytes]) -> None:
        """Write many rows as one: all of them or none."""
        statement = (
            "INSERT INTO kept (space, key, value, version, expires_at) VALUES (:space, :key, :value, 1, 0)"
            " ON CONFLICT (space, key) DO UPDATE SET value = excluded.value, version = kept.version + 1, expires_at = 0"
        )
        many = [{"space": space, "key": key, "value": value} for key, value in rows.items()]
        try:
            with self._turn:
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    self._connection.executemany(statement, many)
                except sqlite3.Error:
                    self._connection.execute("ROLLBACK")
                    raise
                self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise _unusable(error) from error

    def replace(
        self, space: str, key: str, value: bytes, *, seen: int, now: float, expires_at: float = 0.0
    ) -> bool:
        """Write a row only if it stands at version ``seen`` (0: only if there is none); False when it does not."""
        self._run("DELETE FROM kept WHERE expires_at > 0 AND expires_at <= :now", now=now)
        values: dict[str, Any] = {"space": space, "key": key, "value": value, "until": expires_at}
        if seen == 0:
            made = self._run(
                "INSERT INTO kept (space, key, value, version, expires_at) VALUES (:space, :key, :value, 1, :until)"
                " ON CONFLICT DO NOTHING RETURNING 1",
                **values,
            )
            return bool(made)
        changed = self._run(
            "UPDATE kept SET value = :value, version = version + 1, expires_at = :until"
            " WHERE space = :space AND key = :key AND version = :seen RETURNING 1",
            **values,
            seen=seen,
        )
        return bool(changed)

    def kept(self, space: str, key: str, now: float) -> tuple[bytes, int] | None:
        """A row's value and version, unless it is absent or has expired."""
        rows = self._run(
            "SELECT value, version FROM kept WHERE space = :space AND key = :key AND (expires_at = 0 OR expires_at > :now)",
            space=space,
            key=key,
            now=now,
        )
        return (bytes(rows[0][0]), int(rows[0][1])) if rows else None

    def row(self, space: str, key: str, now: float) -> tuple[bytes, int, float] | None:
        """As ``kept``, with when it expires (0: never)."""
        rows = self._run(
            "SELECT value, version, expires_at FROM kept WHERE space = :space AND key = :key"
            " AND (expires_at = 0 OR expires_at > :now)",
            space=space,
            key=key,
            now=now,
        )
        return (bytes(rows[0][0]), int(rows[0][1]), float(rows[0][2])) if rows else None

    def take(self, space: str, key: str, now: float) -> bytes | None:
        """A row's value, which is gone with it: of two who take it one gets None."""
        rows = self._run(
            "DELETE FROM kept WHERE space = :space AND key = :key RETURNING value, expires_at",
            space=space,
            key=key,
        )
        return bytes(rows[0][0]) if rows and (rows[0][1] == 0 or rows[0][1] > now) else None

    def all_kept(self, space: str, now: float) -> dict[str, bytes]:
        """All rows of a space by key, sorted; what has expired is dropped."""
        self._run("DELETE FROM kept WHERE expires_at > 0 AND expires_at <= :now", now=now)
        rows = self._run("SELECT key, value FROM kept WHERE space = :space ORDER BY key", space=space)
        return {str(key): bytes(value) for key, value in rows}

    def spaces(self, prefix: str) -> list[str]:
        """The spaces that hold rows and whose name begins with ``prefix``, sorted."""
        rows = self._run("SELECT DISTINCT space FROM kept ORDER BY space")
        return [str(row[0]) for row in rows if str(row[0]).startswith(prefix)]

    def drop(self, space: str, key: str) -> bool:
        """Delete a row; False when there was none."""
        return bool(
            self._run(
                "DELETE FROM kept WHERE space = :space AND key = :key RETURNING 1", space=space, key=key
            )
        )

    # -- revisions of the settings -------------------------------------------------------------------------------

    def add_revision(self, digest: str, settings: bytes, at: float, by: str) -> int:
        """Keep a revision of the settings and return its generation; the same settings again make a new one."""
        rows = self._run(
            'INSERT INTO settings_revisions (digest, settings, at, "by") VALUES (:digest, :settings, :at, :by)'
            " RETURNING generation",
            digest=digest,
            settings=settings,
            at=at,
            by=by,
        )
        return int(rows[0][0])

    def revisions(self, limit: int = 20) -> list[tuple[int, str, float, str]]:
        """The newest revisions: generation, digest, when and by whom."""
        rows = self._run(
            'SELECT generation, digest, at, "by" FROM settings_revisions ORDER BY generation DESC LIMIT :limit',
            limit=limit,
        )
        return [(int(row[0]), str(row[1]), float(row[2]), str(row[3])) for row in rows]

    def close(self) -> None:
        """Let go of the file."""
        with self._turn:
            self._connection.close()

    def _run(self, statement: str, **values: Any) -> list[Any]:
        try:
            with self._turn:
                return self._connection.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise _unusable(error) from error


def _open(path: Path) -> sqlite3.Connection:
    # Every statement is a transaction of its own; the lock above lets threads take turns.
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    return connection


def _version_of(connection: sqlite3.Connection) -> str:
    """The migration that a file stands at; "" for a fresh one."""
    tables = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchall()
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone() if tables else None
    return str(row[0]) if row else ""


def migrate(path: Path) -> None:
    """Bring a file to the newest schema, step by step. Raises: StoreError ``state-unusable``."""
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["path"] = str(path)
    try:
        command.upgrade(config, "head")
    except CommandError as error:  # a file of a newer Doorward
        raise _unusable(error) from error


def _unusable(error: Exception) -> StoreError:
    return StoreError(
        "state-unusable",
        f"{FILE} in the data folder cannot be used; check its rights, or that it is not newer.",
        type(error).__name__,
    )
