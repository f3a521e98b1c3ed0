"""Watch the settings file and the policy files; a settings file's content is what counts, not its time."""

from __future__ import annotations

import asyncio
import glob
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from doorward.app.supervisor import Supervisor

_POLL_SECONDS = 1.0
_Stamp = tuple[int, int, int] | None


async def watch_settings(supervisor: Supervisor) -> None:
    """Put changed files in force, in profiles that do so by themselves; until cancelled."""
    if supervisor.settings.gateway.profile not in ("local", "lab"):
        return
    seen = _stamps(supervisor)
    while True:
        await asyncio.sleep(_POLL_SECONDS)
        found = _stamps(supervisor)
        if found != seen:
            force, seen = found[1:] != seen[1:], found
            await supervisor.reload("file", force=force)


def _stamps(supervisor: Supervisor) -> list[_Stamp]:
    policies = sorted(name for pattern in supervisor.settings.policy.files for name in glob.glob(pattern))
    return [_stamp(path) for path in (supervisor.loaded.path, *map(Path, policies))]


def _stamp(path: Path) -> _Stamp:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
