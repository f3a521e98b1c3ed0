"""Keys and secrets in files under ``{data_dir}/keys``: folder 0700, files 0600, owned by who runs Doorward.

Several processes may ask for the same file at once (``doorward token`` beside ``doorward serve``): a new file
is written whole under another name and then linked to its own, which succeeds for exactly one of them; all
read that one.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from doorward.base.errors import OperatorError
from doorward.base.ids import mint_handle
from doorward.identity.keys import KeySet
from doorward.identity.sealing import MasterKeys

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

TOKEN_KEYS_FILE = "token-signing.json"
MASTER_KEYS_FILE = "master.json"
KEY_FILE_BYTES = 65_536  # no key file of ours is near this size
_SHARED_BITS = 0o077


def load_or_create_keys(data_dir: Path) -> KeySet:
    """The token signing keys of this installation, made on first use.

    Raises:
        OperatorError: ``key-file-open``, ``key-file-broken`` or ``key-file-unusable``.
    """
    content = _load_or_create(data_dir, TOKEN_KEYS_FILE, lambda: KeySet.generate().to_bytes())
    return KeySet.from_bytes(content)


def rotate_keys(data_dir: Path) -> KeySet:
    """Replace the signing key; tokens of the old ones stay valid until they expire. One caller at a time."""
    keys = load_or_create_keys(data_dir).rotated()
    replace_key_file(data_dir, TOKEN_KEYS_FILE, keys.to_bytes())
    return keys


def load_or_create_master(data_dir: Path) -> MasterKeys:
    """The master keys of this installation, made on first use. Raises: OperatorError, as ``load_or_create_keys``."""
    content = _load_or_create(data_dir, MASTER_KEYS_FILE, lambda: MasterKeys.generate().to_bytes())
    return MasterKeys.from_bytes(content)


def replace_key_file(data_dir: Path, name: str, content: bytes) -> None:
    """Put a key file in place, whole and on disk. One caller at a time. Raises: OperatorError ``key-file-unusable``."""
    folder = _keys_folder(data_dir)
    try:
        os.replace(_written_aside(folder, name, content), folder / name)
        _sync_folder(folder)
    except OSError as error:
        raise _unusable(error) from error


def key_file_times(data_dir: Path) -> dict[str, float]:
    """Key files by name and when each was last written, Unix seconds."""
    folder = _keys_folder(data_dir)
    return {path.name: path.stat().st_mtime for path in sorted(folder.iterdir()) if path.name[0] != "."}


def load_or_create_secret(data_dir: Path, name: str, size_bytes: int = 32) -> bytes:
    """``size_bytes`` random bytes that stay the same for this installation, kept in ``keys/{name}.secret``.

    Raises:
        OperatorError: as ``load_or_create_keys``.
    """
    content = _load_or_create(data_dir, f"{name}.secret", lambda: os.urandom(size_bytes))
    if len(content) != size_bytes:
        raise _broken(name)
    return content


def load_or_create_ed25519(data_dir: Path, name: str) -> Ed25519PrivateKey:
    """An Ed25519 signing key, kept as PKCS #8 in ``keys/{name}.pem``.

    Raises:
        OperatorError: as ``load_or_create_keys``.
    """
    from cryptography.hazmat.primitives.asymmetric import ed25519
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        load_pem_private_key,
    )

    def create() -> bytes:
        fresh = ed25519.Ed25519PrivateKey.generate()
        return fresh.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    content = _load_or_create(data_dir, f"{name}.pem", create)
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError) as error:
        raise _broken(name) from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise _broken(name)
    return key


def _load_or_create(data_dir: Path, name: str, create: Callable[[], bytes]) -> bytes:
    folder = _keys_folder(data_dir)
    target = folder / name
    try:
        if not target.is_symlink() and not target.exists():
            aside = _written_aside(folder, name, create())
            try:
                os.link(aside, target)
            except FileExistsError:
                pass  # another process was first; its key is the key
            finally:
                aside.unlink()
            _sync_folder(folder)
        return _read_private(target)
    except OSError as error:
        raise _unusable(error) from error


def _keys_folder(data_dir: Path) -> Path:
    folder = data_dir / "keys"
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise _unusable(error) from error
    if not stat.S_ISDIR(found.st_mode):
        raise OperatorError("key-file-unusable", "keys in the data folder is not a folder; move it away.")
    _refuse_shared(found, "The keys folder", "chmod 700")
    return folder


def _written_aside(folder: Path, name: str, content: bytes) -> Path:
    aside = folder / f".{name}.{mint_handle(12)}"
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    return aside


def _read_private(target: Path) -> bytes:
    descriptor = os.open(target, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size > KEY_FILE_BYTES:
            raise _broken(target.name)
        _refuse_shared(found, f"The key file {target.name}", "chmod 600")
        return file.read()


def _refuse_shared(found: os.stat_result, what: str, remedy: str) -> None:
    if found.st_uid not in (os.geteuid(), 0):
        raise OperatorError(
            "key-file-open", f"{what} belongs to another user; give it to the user that runs Doorward."
        )
    if stat.S_IMODE(found.st_mode) & _SHARED_BITS:
        raise OperatorError(
            "key-file-open",
            f"{what} can be reached by other users; replace its keys, or run {remedy} on it.",
        )


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _broken(name: str) -> OperatorError:
    return OperatorError(
        "key-file-broken", f"The key file {name} is not what it was; restore it from a backup."
    )


def _unusable(error: OSError) -> OperatorError:
    return OperatorError(
        "key-file-unusable",
        "The keys folder in the data folder cannot be used; check its owner, its rights and the disk.",
        f"{type(error).__name__} {error.errno}",
    )
