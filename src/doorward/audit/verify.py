"""Prove or disprove the logs of one installation from their files alone, every byte of them."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from doorward.audit.checkpoint import (
    Checkpoint,
    folder_of,
    key_id,
    open_note,
    parse_checkpoint,
    parse_origins,
    signers_of,
    unsigned_checkpoint,
)
from doorward.audit.verify_log import LogCheck, Problem
from doorward.base.errors import TamperError


class Shelf(Protocol):
    """The files of a ledger folder, as the verifier reads them. Neither method raises."""

    def paths(self) -> list[str]:
        """Everything that is not a folder, relative, with forward slashes."""

    def read(self, path: str) -> bytes | None:
        """A plain file's content; None when it is gone, unreadable or not a plain file."""


class Report(msgspec.Struct):
    """What a verification found; ``as_json`` is the stable form of ``doorward audit verify --json``."""

    ok: bool
    completeness: str
    entries: int
    logs: list[dict[str, Any]]
    problems: list[Problem]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain


def verify(
    shelf: Shelf,
    public_key: bytes,
    *,
    signed: Mapping[str, tuple[int, str]] | None = None,
    witnesses: Sequence[bytes] = (),
) -> Report:
    """Check all logs on a shelf against one 32-byte Ed25519 key.

    ``signed`` is what the signer remembers (log -> size and root in hex), ``witnesses`` are checkpoint notes kept
    elsewhere. A shelf that is being written may show problems that a second look does not.
    """
    problems: list[Problem] = []
    remembered = dict(signed or {})
    held = _read_witnesses(witnesses, public_key, problems)
    paths = shelf.paths()
    origins = _read_origins(shelf, paths, public_key, problems, expected=bool(remembered or held or paths))
    origins |= set(remembered) | {checkpoint.origin for checkpoint in held}
    by_folder: dict[str, list[str]] = {}
    for path in paths:
        folder, _, rest = path.partition("/")
        by_folder.setdefault(folder if rest else "", []).append(rest or path)
    logs = []
    for origin in sorted(origins):
        files = by_folder.pop(folder_of(origin), None)
        if files is None:
            problems.append(Problem(origin, None, folder_of(origin), "the whole log is missing"))
            continue
        check = LogCheck(origin, files, shelf, public_key)
        _want(check, remembered.get(origin), held)
        logs.append(check.run())
        problems += check.problems
    for folder, files in by_folder.items():
        for name in files:
            if folder or name != "origins":
                path = f"{folder}/{name}" if folder else name
                problems.append(Problem("", None, path, "the file belongs to no signed log"))
    witnessed = bool(witnesses) and not problems
    entries = sum(int(log["entries"]) for log in logs)
    return Report(not problems, "witnessed" if witnessed else "unwitnessed", entries, logs, problems)


def _want(check: LogCheck, remembered: tuple[int, str] | None, held: list[Checkpoint]) -> None:
    if remembered is not None:
        check.want(remembered[0], remembered[1], "what the signer has signed")
    for checkpoint in held:
        if checkpoint.origin == check.origin:
            check.want(checkpoint.size, checkpoint.root.hex(), "the given checkpoint")


def _read_origins(
    shelf: Shelf, paths: list[str], public_key: bytes, problems: list[Problem], *, expected: bool
) -> set[str]:
    note = shelf.read("origins") if "origins" in paths else None
    if note is None:
        if expected:
            problems.append(Problem("", None, "origins", "the signed set of logs is missing"))
        return set()
    try:
        lines = note.decode("utf-8", "replace").split("\n")
        host = lines[1] if len(lines) > 1 else ""
        said, origins = parse_origins(open_note(note, host, public_key))
        check_signers(note, said, public_key)
        return set(origins)
    except TamperError as error:
        problems.append(Problem("", None, "origins", error.tell))
        return set()


def check_signers(note: bytes, name: str, public_key: bytes) -> None:
    """Refuse signature lines of other keys: nobody could say what they are; raises TamperError."""
    if signers_of(note) != [(name, key_id(name, public_key))]:
        raise TamperError("note-signers", "The note carries a signature of an unknown key.")


def _read_witnesses(
    witnesses: Sequence[bytes], public_key: bytes, problems: list[Problem]
) -> list[Checkpoint]:
    held = []
    for note in witnesses:
        try:
            origin = unsigned_checkpoint(note).origin
            held.append(parse_checkpoint(open_note(note, origin, public_key)))
        except TamperError as error:
            problems.append(Problem("", None, "", f"the given checkpoint cannot be used: {error.tell}"))
    return held


def encode_root(root: bytes) -> str:
    """A root as checkpoints write it."""
    return base64.b64encode(root).decode()
