"""Signed notes (C2SP signed-note) and checkpoints (C2SP tlog-checkpoint) with Ed25519."""

from __future__ import annotations

import base64
import binascii
import re
from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec

from doorward.audit.tree import HASH_BYTES
from doorward.base.errors import TamperError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_ED25519 = b"\x01"  # signature type of the signed-note specification
NOTE_BYTES = 1_048_576  # no note of ours is near this size
SIGNATURES_COUNT = 64
_ORIGIN = re.compile(r"[a-z0-9][a-z0-9._-]*(?:/[a-z0-9][a-z0-9._-]*){0,7}", re.ASCII)
_SIZE = re.compile(r"0|[1-9][0-9]{0,17}", re.ASCII)
ORIGIN_CHARS = 128


def is_origin(text: str) -> bool:
    """Whether a log may be called so: lower-case path elements, safe as a file name and as a key name."""
    return len(text) <= ORIGIN_CHARS and _ORIGIN.fullmatch(text) is not None


def folder_of(origin: str) -> str:
    """The folder name of a log; injective, as an origin has no plus sign."""
    return origin.replace("/", "+")


def key_id(name: str, public_key: bytes) -> bytes:
    """Four bytes that tell keys of one name apart."""
    return sha256(name.encode() + b"\n" + _ED25519 + public_key).digest()[:4]


def write_vkey(name: str, public_key: bytes) -> str:
    """The verifier key line ``name+id+base64`` that note tools read."""
    encoded = base64.b64encode(_ED25519 + public_key).decode()
    return f"{name}+{key_id(name, public_key).hex()}+{encoded}"


def read_vkey(text: str) -> tuple[str, bytes]:
    """Name and 32-byte public key of a verifier key line; raises TamperError when it is not a sound one."""
    parts = text.strip().split("+", 2)
    try:
        name, identity, encoded = parts
        raw = base64.b64decode(encoded, validate=True)
    except ValueError as error:
        raise TamperError("vkey-broken", "The verifier key is not readable.") from error
    if raw[:1] != _ED25519 or len(raw) != 1 + HASH_BYTES or key_id(name, raw[1:]).hex() != identity:
        raise TamperError("vkey-broken", "The verifier key does not match its own key id.")
    return name, raw[1:]


def sign_note(text: str, name: str, key: Ed25519PrivateKey) -> str:
    """Sign a note text, which ends in a newline, under a key name."""
    public_key = key.public_key().public_bytes_raw()
    signature = base64.b64encode(key_id(name, public_key) + key.sign(text.encode())).decode()
    return f"{text}\n\u2014 {name} {signature}\n"


def _broken(tell: str) -> TamperError:
    return TamperError("note-broken", tell)


def open_note(note: bytes, name: str, public_key: bytes) -> str:
    """Check a note against one known key and return its text; other signatures are ignored.

    Raises:
        TamperError: ``note-broken`` when it is malformed, ``note-unsigned`` when the signature does not hold.
    """
    text, signatures = _split_note(note)
    identity = key_id(name, public_key)
    for signer, raw in signatures:
        if signer == name and raw[:4] == identity:
            _check_signature(text, raw[4:], public_key)
            return text
    raise TamperError("note-unsigned", "The note has no signature of the expected key.")


def signers_of(note: bytes) -> list[tuple[str, bytes]]:
    """The key names and key ids that a well-formed note claims to be signed by; raises TamperError."""
    return [(signer, raw[:4]) for signer, raw in _split_note(note)[1]]


def _split_note(note: bytes) -> tuple[str, list[tuple[str, bytes]]]:
    if len(note) > NOTE_BYTES:
        raise _broken("The note is too long.")
    try:
        whole = note.decode()
    except UnicodeDecodeError as error:
        raise _broken("The note is not UTF-8.") from error
    if any(char < " " and char != "\n" for char in whole):
        raise _broken("The note has control characters.")
    at = whole.rfind("\n\n")
    if at < 0 or not whole.endswith("\n"):
        raise _broken("The note has no signatures.")
    lines = whole[at + 2 : -1].split("\n")
    if not 1 <= len(lines) <= SIGNATURES_COUNT:
        raise _broken("The note has no signatures.")
    return whole[: at + 1], [_split_signature(line) for line in lines]


def _split_signature(line: str) -> tuple[str, bytes]:
    parts = line.split(" ")
    if len(parts) != 3 or parts[0] != "\u2014" or not parts[1] or "+" in parts[1]:
        raise _broken("A signature line is malformed.")
    try:
        raw = base64.b64decode(parts[2], validate=True)
    except (binascii.Error, ValueError) as error:
        raise _broken("A signature is not base64.") from error
    if len(raw) < 5 or base64.b64encode(raw).decode() != parts[2]:
        raise _broken("A signature is not canonical base64.")
    return parts[1], raw


def _check_signature(text: str, signature: bytes, public_key: bytes) -> None:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, text.encode())
    except (InvalidSignature, ValueError) as error:
        raise TamperError("note-unsigned", "The signature of the note does not hold.") from error


class Checkpoint(msgspec.Struct, frozen=True):
    """How long a log is and the hash of all of it."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """The note text (C2SP tlog-checkpoint)."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def parse_checkpoint(text: str) -> Checkpoint:
    """Read a checkpoint text strictly; extension lines are refused, for nobody could audit them.

    Raises:
        TamperError: ``checkpoint-broken``.
    """
    lines = text.split("\n")
    if len(lines) == 4 and _SIZE.fullmatch(lines[1]) and lines[0]:
        try:
            root = base64.b64decode(lines[2], validate=True)
        except ValueError:
            root = b""
        made = Checkpoint(lines[0], int(lines[1]), root)
        if len(root) == HASH_BYTES and made.text == text:
            return made
    raise TamperError("checkpoint-broken", "The checkpoint is malformed.")


def unsigned_checkpoint(note: bytes) -> Checkpoint:
    """What a note claims, before its signature is checked; raises TamperError when it is malformed."""
    return parse_checkpoint(_split_note(note)[0])


_ORIGINS_LINE = "doorward set of logs"


def origins_text(host: str, origins: list[str]) -> str:
    """The note text that lists all logs of one installation."""
    return "\n".join([_ORIGINS_LINE, host, str(len(origins)), *origins]) + "\n"


def parse_origins(text: str) -> tuple[str, list[str]]:
    """Host and logs of a set of logs; raises TamperError ``origins-broken``."""
    lines = text.split("\n")
    origins = lines[3:-1]
    if len(lines) < 4 or text != origins_text(lines[1], origins) or not all(map(is_origin, origins)):
        raise TamperError("origins-broken", "The signed set of logs is malformed.")
    return lines[1], origins
