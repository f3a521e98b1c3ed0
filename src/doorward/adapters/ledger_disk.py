"""Plain file work of the ledger: whole files appear at once or not at all, and reading never follows links."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from doorward.base.ids import mint_handle

FILE_BYTES = 1 << 30  # nothing of ours comes near; a larger file is not one of ours


def write_all(descriptor: int, content: bytes) -> None:
    """Write every byte; raises OSError."""
    done = os.write(descriptor, content)
    while done < len(content):
        done += os.write(descriptor, memoryview(content)[done:])


def place_file(scratch: Path, target: Path, content: bytes, *, sync: bool = True) -> None:
    """Write a file aside in ``scratch`` (same file system), sync it and move it to its place; raises OSError.

    Without ``sync`` the caller makes it durable later, before anything relies on it.
    """
    aside = scratch / f".new-{mint_handle(9)}"
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            write_all(descriptor, content)
            if sync:
                os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(aside, target)
    except OSError:
        aside.unlink(missing_ok=True)
        raise


def sync_file_system(folder: Path) -> None:
    """Make everything on the file system of ``folder`` durable with one journal commit; raises OSError."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not hasattr(libc, "syncfs"):
            os.sync()
        elif libc.syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), "syncfs failed")
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable; raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_file(path: Path) -> bytes | None:
    """A plain file's content; None when there is none, or when it is something else. Raises OSError otherwise."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size > FILE_BYTES:
            return None
        return file.read()


def list_files(folder: Path) -> list[str]:
    """Paths of everything below ``folder`` that is not a folder, sorted, with forward slashes."""
    found = []
    for root, folders, names in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(root, name))]
        found += [os.path.relpath(os.path.join(root, name), folder) for name in (*names, *links)]
    return sorted(path.replace(os.sep, "/") for path in found)
