"""The data folder: closed to others, used by one serving Doorward at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from doorward.base.errors import OperatorError


def lock_data_folder(data_dir: Path) -> int:
    """Make the folder 0700 and take its lock; the descriptor holds the lock until it is closed.

    Raises: OperatorError ``data-dir-busy`` when another Doorward serves from it, ``data-dir-unusable``.
    """
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.chmod(data_dir, 0o700)
        descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise OperatorError(
            "data-dir-unusable",
            "The data folder cannot be used; check gateway.data_dir and its owner.",
            str(error.errno),
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise OperatorError(
            "data-dir-busy",
            "Another Doorward serves from this data folder; stop it, or give this one another gateway.data_dir.",
        ) from error
    return descriptor
