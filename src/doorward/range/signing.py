"""Results that a third party can check: a signed note beside the file, in the open C2SP signed-note format.

The key is of this installation and signs nothing else, so that no note can pass for a checkpoint of the ledger.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from doorward import __version__
from doorward.adapters.key_files import load_or_create_ed25519
from doorward.audit.checkpoint import open_note, sign_note, write_vkey
from doorward.base.clock import Clock, SystemClock, rfc3339
from doorward.base.errors import OperatorError, TamperError
from doorward.range.runner import Result

KEY_NAME = "range-signing"
SIGNER = "doorward-range"
_FIRST_LINE = "doorward range results v1"
_FILE_BYTES = 268_435_456


def note_path(path: Path) -> Path:
    """Where the note of a result file lies."""
    return path.with_name(path.name + ".note")


def write_signed(path: Path, results: Sequence[Result], data_dir: Path, clock: Clock | None = None) -> str:
    """Write results and their note; the verifier key that checks them.

    Raises: OperatorError ``range-machine-report`` when a file cannot be written, ``key-file-...`` as keys do.
    """
    key = load_or_create_ed25519(data_dir, KEY_NAME)
    content = msgspec.json.encode(results)
    good = sum(1 for one in results if one.ok)
    text = (
        f"{_FIRST_LINE}\nsha256:{hashlib.sha256(content).hexdigest()}\n{good} of {len(results)} as expected\n"
        f"{rfc3339((clock or SystemClock()).now())}\ndoorward {__version__}\n"
    )
    try:
        path.write_bytes(content)
        note_path(path).write_text(sign_note(text, SIGNER, key), encoding="utf-8")
    except OSError as error:
        raise OperatorError("range-machine-report", f"{path} cannot be written: {error.strerror}.") from error
    return write_vkey(SIGNER, key.public_key().public_bytes_raw())


def own_public_key(data_dir: Path) -> bytes:
    """The public key of this installation. Raises: OperatorError ``range-key`` when it has never signed anything."""
    if not (data_dir / "keys" / f"{KEY_NAME}.pem").is_file():
        raise OperatorError(
            "range-key",
            "This data folder has never signed results; give the key with --vkey, or the right --config.",
        )
    return load_or_create_ed25519(data_dir, KEY_NAME).public_key().public_bytes_raw()


def verify_signed(path: Path, public_key: bytes) -> list[str]:
    """Check a result file against its note; the note's words about it, such as ["8 of 8 as expected", time, version].

    Raises: TamperError when file or note were changed or another key signed, OperatorError ``range-unreadable``.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(_FILE_BYTES)
        note = note_path(path).read_bytes()
    except OSError as error:
        raise OperatorError(
            "range-unreadable", f"{path} or its note cannot be read: {error.strerror}."
        ) from error
    lines = open_note(note, SIGNER, public_key).splitlines()
    if len(lines) < 2 or lines[0] != _FIRST_LINE:
        raise TamperError("range-note", "The note is not one of range results.")
    if lines[1] != f"sha256:{hashlib.sha256(content).hexdigest()}":
        raise TamperError("range-changed", "The file is not the one that was signed.")
    return lines[2:]
