"""Where desktop clients keep their MCP configuration, and how such a file is changed and put back, to the byte.

A file of a project comes from whoever wrote the project, so it is marked as such. Before a file is changed its bytes are kept under
Doorward's own data folder with a digest of both versions; what was changed by somebody else since is never overwritten.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from doorward.base.errors import OperatorError
from doorward.catalogue.client_configs import Format

FILE_BYTES = 8_388_608  # Claude Code keeps its history beside its servers
_INDEX = "applied.json"


class ClientFile(msgspec.Struct, frozen=True):
    """One configuration file that a client may read."""

    client: str
    scope: Literal["user", "project"]
    path: Path
    format: Format


class Applied(msgspec.Struct, frozen=True):
    """One file as it was changed."""

    path: str
    before: str  # sha256 of the bytes that were there
    after: str
    mode: int


def places(home: Path, project: Path | None) -> list[ClientFile]:
    """All files that clients on this system read, whether they are there or not."""
    if sys.platform == "darwin":
        settings = home / "Library" / "Application Support"
    else:
        settings = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    zed = home / ".config" / "zed" if sys.platform == "darwin" else settings / "zed"
    codex = Path(os.environ.get("CODEX_HOME") or home / ".codex")
    user: list[tuple[str, Path, Format]] = [
        ("Claude Desktop", settings / "Claude" / "claude_desktop_config.json", "mcpServers"),
        ("Claude Code", home / ".claude.json", "claude-code"),
        ("VS Code", settings / "Code" / "User" / "mcp.json", "servers"),
        ("VS Code Insiders", settings / "Code - Insiders" / "User" / "mcp.json", "servers"),
        ("Copilot", home / ".copilot" / "mcp-config.json", "mcpServers"),
        ("Cursor", home / ".cursor" / "mcp.json", "mcpServers"),
        ("Windsurf", home / ".codeium" / "windsurf" / "mcp_config.json", "mcpServers"),
        ("Zed", zed / "settings.json", "context_servers"),
        ("Gemini CLI", home / ".gemini" / "settings.json", "mcpServers"),
        ("Codex CLI", codex / "config.toml", "toml"),
    ]
    own: list[tuple[str, str, Format]] = [
        ("Claude Code", ".mcp.json", "mcpServers"),
        ("VS Code", ".vscode/mcp.json", "servers"),
        ("Cursor", ".cursor/mcp.json", "mcpServers"),
        ("Zed", ".zed/settings.json", "context_servers"),
        ("Gemini CLI", ".gemini/settings.json", "mcpServers"),
        ("Codex CLI", ".codex/config.toml", "toml"),
    ]
    found = [ClientFile(client, "user", path, kind) for client, path, kind in user]
    if project is not None and project.resolve() != home.resolve():
        found += [ClientFile(client, "project", project / name, kind) for client, name, kind in own]
    return found


def read_config(path: Path) -> bytes | None:
    """A file's bytes; None where there is none. Raises: OperatorError ``import-unreadable``."""
    try:
        # Not to wait for a writer: a project may hold a link to a pipe or a terminal.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OperatorError("import-unreadable", f"{path} is no file.")
        with os.fdopen(descriptor, "rb") as stream:
            content = stream.read(FILE_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise OperatorError("import-unreadable", f"{path} cannot be read: {error.strerror}.") from error
    if len(content) > FILE_BYTES:
        raise OperatorError("import-unreadable", f"{path} is larger than {FILE_BYTES} bytes.")
    return content


def digest_of(content: bytes) -> str:
    """``sha256:...`` of a file's bytes."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


class Backups:
    """What files held before they were changed."""

    def __init__(self, folder: Path) -> None:
        """``folder`` is private to the user, and made when something is kept."""
        self._folder = folder

    def applied(self) -> list[Applied]:
        """The files that are changed now. Raises: OperatorError."""
        try:
            return msgspec.json.decode((self._folder / _INDEX).read_bytes(), type=list[Applied])
        except FileNotFoundError:
            return []
        except (OSError, msgspec.MsgspecError) as error:
            raise OperatorError("import-backup", f"{self._folder / _INDEX} cannot be read.") from error

    def replace(self, path: Path, before: bytes, after: bytes) -> None:
        """Put new bytes in a file's place, once the old ones are kept. Raises: OperatorError."""
        path = path.resolve()  # a link stays one; what it leads to is changed
        if read_config(path) != before:
            raise OperatorError("import-changed", f"{path} has changed meanwhile; nothing was written.")
        try:
            mode = path.stat().st_mode & 0o777
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            known = {one.path: one for one in self.applied()}
            # The first bytes that we ever saw are what is put back, however often it is applied again.
            first = known.get(str(path))
            if first is None or first.after != digest_of(before):
                _write(self._folder / _name(digest_of(before)), before, 0o600)
                first = Applied(str(path), digest_of(before), "", mode)
            known[str(path)] = msgspec.structs.replace(first, after=digest_of(after))
            self._write_index(list(known.values()))
            _write(path, after, mode)
        except OSError as error:
            raise OperatorError(
                "import-unwritable", f"{path} cannot be written: {error.strerror}."
            ) from error

    def undo(self, said: Callable[[Path, bool], None]) -> bool:
        """Put every changed file back. ``said(path, done)``; False when one had been changed by somebody else since."""
        left = []
        for one in self.applied():
            path = Path(one.path)
            fine = self._put_back(path, one)
            if not fine:
                left.append(one)
            said(path, fine)
        self._write_index(left)
        return not left

    def _put_back(self, path: Path, one: Applied) -> bool:
        """False where the file, or what is kept of it, is not as it was left: the others are put back all the same."""
        try:
            content = read_config(path)
            if content is None or digest_of(content) != one.after:
                return False
            before = read_config(self._folder / _name(one.before))
            if before is None or digest_of(before) != one.before:
                return False
            _write(path, before, one.mode)
        except (OperatorError, OSError):
            return False
        return True

    def _write_index(self, applied: list[Applied]) -> None:
        if self._folder.exists():
            _write(self._folder / _INDEX, msgspec.json.format(msgspec.json.encode(applied), indent=1), 0o600)


def _name(digest: str) -> str:
    return digest.partition(":")[2]


def _write(path: Path, content: bytes, mode: int) -> None:
    """A whole file at once: a reader never sees half of it."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
