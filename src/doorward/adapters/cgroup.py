"""Count a server's processes by a cgroup where Doorward may make one (RLIMIT_NPROC does not bind root)."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_PREFIX = "doorward-"
_NUMBERS = itertools.count(
    1
)  # of this process: a group may outlive whoever made it, and its name must not come again


class ProcessGroup:
    """One cgroup with a limit on the number of processes and threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, pid: int) -> None:
        """Move a process in; what it starts later is born inside. Raises: OSError."""
        (self.folder / "cgroup.procs").write_text(str(pid))

    def kill(self) -> None:
        """SIGKILL whatever is still inside."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)

    def pids(self) -> list[int]:
        """The processes inside, as ids of our own namespace."""
        try:
            return [int(line) for line in (self.folder / "cgroup.procs").read_text().split()]
        except OSError:
            return []

    def remove(self) -> bool:
        """Delete the group; False while something is inside."""
        try:
            self.folder.rmdir()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True


def pids_folder() -> Path | None:
    """Where groups with a process limit can be made: cgroup v1's pids hierarchy, or v2 with the controller delegated."""
    if os.geteuid() != 0:
        return None
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if "pids" in controllers.split(","):
            folder = _ROOT / "pids" / path.lstrip("/")
            if not folder.is_dir():
                folder = _ROOT / "pids"  # the path is as another namespace sees it
            return folder if os.access(folder, os.W_OK) else None
        if controllers == "":
            folder = _ROOT / path.lstrip("/")
            with contextlib.suppress(OSError):
                if "pids" in (folder / "cgroup.subtree_control").read_text().split() and os.access(
                    folder, os.W_OK
                ):
                    return folder
    return None


class ProcessGroups:
    """The groups of this supervisor."""

    def __init__(self) -> None:
        self._folder = pids_folder()
        if self._folder is not None:
            self._sweep(self._folder)

    @property
    def is_available(self) -> bool:
        """False where only RLIMIT_NPROC can limit processes, which does not bind root."""
        return self._folder is not None

    def make(self, processes: int) -> ProcessGroup | None:
        """Make a group, or None where this machine does not allow it."""
        if self._folder is None:
            return None
        folder = self._folder / f"{_PREFIX}{os.getpid()}-{next(_NUMBERS)}"
        try:
            folder.mkdir()
            (folder / "pids.max").write_text(str(processes))
        except OSError:
            with contextlib.suppress(OSError):
                folder.rmdir()
            return None
        return ProcessGroup(folder)

    @staticmethod
    def _sweep(folder: Path) -> None:
        """Remove empty groups of supervisors that are gone."""
        for old in folder.glob(f"{_PREFIX}*-*"):
            pid = old.name.removeprefix(_PREFIX).split("-")[0]
            if not Path("/proc", pid).exists():
                with contextlib.suppress(OSError):
                    old.rmdir()
