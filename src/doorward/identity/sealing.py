"""Envelope encryption of what is stored: each value has a data key of its own, wrapped by a master key (AES-256-GCM).

What belongs together is bound together as associated data: who owns a value, what it is for, and which version of its row it is.
A value in another row, under another owner or of an older version does not open. Pure functions over bytes; no I/O.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Mapping
from typing import Any

import msgspec

from doorward.base.errors import OperatorError, TamperError

KEY_BYTES = 32
KEYS_COUNT = 8  # master keys that a ring holds; older ones are forgotten
_NONCE_BYTES = 12
_FORM = 1


class _Envelope(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    form: int
    key: str  # which master key
    wrap_nonce: bytes
    wrapped: bytes  # the data key
    nonce: bytes
    sealed: bytes


class MasterKeys:
    """The ring of master keys: the current one seals, all of them open. It never prints itself."""

    __slots__ = ("_keys", "current")

    def __init__(self, current: str, keys: Mapping[str, bytes]) -> None:
        """Raises: OperatorError ``key-file-broken``."""
        if current not in keys or not all(len(key) == KEY_BYTES for key in keys.values()):
            raise _broken()
        self.current = current
        self._keys = dict(keys)

    @classmethod
    def generate(cls) -> MasterKeys:
        """A ring of one fresh key."""
        return cls.of(os.urandom(KEY_BYTES))

    @classmethod
    def of(cls, key: bytes, *older: bytes) -> MasterKeys:
        """A ring of these keys; each one's name follows from it."""
        named = {name_of(one): one for one in (key, *older)}
        return cls(name_of(key), named)

    @property
    def names(self) -> tuple[str, ...]:
        """All keys by name, the current one first."""
        return (self.current, *(name for name in self._keys if name != self.current))

    def rotated(self) -> MasterKeys:
        """A ring that seals with a fresh key and still opens with the old ones."""
        fresh = os.urandom(KEY_BYTES)
        kept = [(name, self._keys[name]) for name in self.names][: KEYS_COUNT - 1]
        return MasterKeys(name_of(fresh), {name_of(fresh): fresh, **dict(kept)})

    def alone(self) -> MasterKeys:
        """Only the current key: what older ones sealed opens no more."""
        return MasterKeys(self.current, {self.current: self._keys[self.current]})

    def to_bytes(self) -> bytes:
        """The key file's content; private."""
        return msgspec.json.encode(
            {"current": self.current, "keys": {name: self._keys[name].hex() for name in self.names}}
        )

    @classmethod
    def from_bytes(cls, content: bytes) -> MasterKeys:
        """Read a key file. Raises: OperatorError ``key-file-broken``."""
        try:
            value = msgspec.json.decode(content, type=_Stored)
            keys = {name: bytes.fromhex(text) for name, text in value.keys.items()}
        except (msgspec.MsgspecError, ValueError) as error:
            raise _broken(type(error).__name__) from error
        if not all(hmac.compare_digest(name, name_of(key)) for name, key in keys.items()):
            raise _broken("a name does not belong to its key")
        return cls(value.current, keys)

    def seal(self, value: bytes, *, bound: tuple[str, ...]) -> bytes:
        """Seal ``value`` for exactly this ``bound`` (space, key, version, ...)."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        data_key = os.urandom(KEY_BYTES)
        wrap_nonce, nonce = os.urandom(_NONCE_BYTES), os.urandom(_NONCE_BYTES)
        about = _associated(bound)
        envelope = _Envelope(
            _FORM,
            self.current,
            wrap_nonce,
            AESGCM(self._keys[self.current]).encrypt(wrap_nonce, data_key, b"data key\0" + about),
            nonce,
            AESGCM(data_key).encrypt(nonce, value, b"value\0" + about),
        )
        return msgspec.msgpack.encode(envelope)

    def open(self, sealed: bytes, *, bound: tuple[str, ...]) -> bytes:
        """What was sealed for ``bound``. Raises: TamperError ``sealed-broken``; nothing is guessed or repaired."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        about = _associated(bound)
        try:
            envelope = msgspec.msgpack.decode(sealed, type=_Envelope)
            if envelope.form != _FORM:
                raise ValueError("another form")
            master = AESGCM(self._keys[envelope.key])
            data_key = master.decrypt(envelope.wrap_nonce, envelope.wrapped, b"data key\0" + about)
            return AESGCM(data_key).decrypt(envelope.nonce, envelope.sealed, b"value\0" + about)
        except (msgspec.MsgspecError, KeyError, ValueError, InvalidTag) as error:
            raise TamperError(
                "sealed-broken",
                "A stored secret does not open: it was changed, moved or sealed with a key that is gone.",
                type(error).__name__,
            ) from error

    def is_current(self, sealed: bytes) -> bool:
        """True when the current key sealed it."""
        try:
            return msgspec.msgpack.decode(sealed, type=_Envelope).key == self.current
        except msgspec.MsgspecError:
            return False

    def __repr__(self) -> str:
        return f"MasterKeys({self.current})"

    def __reduce__(self) -> Any:
        msg = "master keys cannot be pickled"
        raise TypeError(msg)


class _Stored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    current: str
    keys: dict[str, str]


def name_of(key: bytes) -> str:
    """The public name of a master key: says nothing of it."""
    return hashlib.sha256(b"doorward master key\0" + key).hexdigest()[:16]


def _associated(bound: tuple[str, ...]) -> bytes:
    return msgspec.json.encode(bound)  # injective: no two tuples share a text


def _broken(cause: str = "") -> OperatorError:
    return OperatorError(
        "key-file-broken", "The master key cannot be read; restore the key file from a backup.", cause
    )
