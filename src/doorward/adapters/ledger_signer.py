"""The supervisor's signer of checkpoints: it signs no log back in time, and it signs the set of all logs."""

from __future__ import annotations

import os
import threading
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from doorward.adapters.ledger_disk import place_file, read_file
from doorward.audit.checkpoint import (
    Checkpoint,
    folder_of,
    is_origin,
    open_note,
    origins_text,
    parse_origins,
    sign_note,
    write_vkey,
)
from doorward.base.errors import StoreError, TamperError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

KEY_NAME = "ledger-signing"  # the signing key among the key files
VKEY_FILE = "ledger.vkey"


class LedgerSigner:
    """Signs checkpoints for all logs of one ``data_dir``. One instance at a time, in the supervisor."""

    def __init__(self, data_dir: Path, key: Ed25519PrivateKey, *, lab: bool = False) -> None:
        """Read what was signed before.

        Raises:
            StoreError: ``ledger-state`` when that cannot be read, ``ledger-mismatch`` when the set of logs is forged.
        """
        self._key = key
        self._turn = threading.Lock()  # writers ask from several threads at once
        self.public_key = key.public_key().public_bytes_raw()
        self.host = ("lab/" if lab else "") + "doorward/" + sha256(self.public_key).hexdigest()[:12]
        self._ledger = data_dir / "ledger"
        self._state = data_dir / "ledger-state"
        try:
            self._ledger.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._state.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._signed = read_signed(self._state)
            self._origins = self._load_origins()
            place_file(
                self._state, self._state / VKEY_FILE, (write_vkey(self.host, self.public_key) + "\n").encode()
            )
        except OSError as error:
            raise StoreError(
                "ledger-state", "The ledger's folder cannot be used; check its rights."
            ) from error

    def _load_origins(self) -> set[str]:
        note = read_file(self._ledger / "origins")
        known = set(self._signed)
        if note is None:
            return known
        name = _first_origin_line(note)
        try:
            return known | set(parse_origins(open_note(note, name, self.public_key))[1])
        except TamperError as error:
            raise StoreError(
                "ledger-mismatch", "The signed set of logs does not hold; run `doorward audit verify`."
            ) from error

    def origin_of(self, writer: str) -> str:
        """The log name of a writer of this installation, such as ``w0`` or ``supervisor``."""
        return f"{self.host}/{writer}"

    def sign(self, origin: str, size: int, root: bytes) -> str:
        """Sign a checkpoint and return the note.

        Raises:
            StoreError: ``ledger-conflict`` when the log would go back in time or change its past, ``ledger-state``
                when what was signed cannot be kept.
        """
        with self._turn:
            return self._sign(origin, size, root)

    def _sign(self, origin: str, size: int, root: bytes) -> str:
        last = self._signed.get(origin)
        if not is_origin(origin) or len(root) != 32:
            raise StoreError("ledger-conflict", "The log has no proper name or root.")
        if last is not None and (size < last[0] or (size == last[0] and root.hex() != last[1])):
            raise StoreError(
                "ledger-conflict",
                "The log is not a continuation of what was signed before; run `doorward audit verify`.",
            )
        try:
            if origin not in self._origins:
                self._add_origin(origin)
            if last is None or size != last[0]:
                entry = msgspec.json.encode({"origin": origin, "size": size, "root": root.hex()})
                place_file(self._state, self._state / f"{folder_of(origin)}.signed", entry)
                self._signed[origin] = (size, root.hex())
        except OSError as error:
            raise StoreError(
                "ledger-state", "What was signed cannot be written down; check the disk."
            ) from error
        return sign_note(Checkpoint(origin, size, root).text, origin, self._key)

    def _add_origin(self, origin: str) -> None:
        wanted = sorted({*self._origins, origin})
        note = sign_note(origins_text(self.host, wanted), self.host, self._key)
        place_file(self._state, self._ledger / "origins", note.encode())
        self._origins = set(wanted)


def _first_origin_line(note: bytes) -> str:
    lines = note.decode("utf-8", "replace").split("\n")
    return lines[1] if len(lines) > 1 else ""


def read_signed(state: Path) -> dict[str, tuple[int, str]]:
    """What was last signed for each log: (size, root in hex). Raises OSError; unreadable files count as none."""
    found: dict[str, tuple[int, str]] = {}
    if not state.is_dir():
        return found
    for name in sorted(os.listdir(state)):
        if not name.endswith(".signed"):
            continue
        try:
            entry = msgspec.json.decode(read_file(state / name) or b"")
            found[str(entry["origin"])] = (int(entry["size"]), str(entry["root"]))
        except (msgspec.DecodeError, KeyError, TypeError, ValueError):
            continue
    return found
