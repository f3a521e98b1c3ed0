"""``doorward wrap``: put the whole of Doorward before one stdio server, for a client that starts it from its configuration."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from doorward.base.errors import OperatorError

if TYPE_CHECKING:
    from collections.abc import Sequence

_NAME_CHARS = 24
_HEAD = """# Written by `doorward wrap`; the command and what it may see are written anew at each start, the rest is yours.
# Look at it with: doorward tools list --config {path}
"""
_RUNNERS = frozenset(
    {"npx", "uvx", "uv", "pipx", "python", "python3", "node", "bunx", "deno", "docker", "env"}
)


def wrap(
    *command: Annotated[
        str, Parameter(help="The server's command and its arguments, after --.", allow_leading_hyphen=True)
    ],
    name: Annotated[str, Parameter(help="The server's name; made of the command when left out.")] = "",
    env: Annotated[
        tuple[str, ...],
        Parameter(help="A variable of this environment that the server gets; may be repeated.", negative=""),
    ] = (),
    file: Annotated[
        tuple[Path, ...], Parameter(help="A further file or folder that the server may read.", negative="")
    ] = (),
    sandbox: Annotated[
        str, Parameter(help='"strict", or "none" to start it without a cage, on record.')
    ] = "strict",
) -> int:
    """Run a stdio server behind Doorward, and speak to the client over stdin and stdout.

    Folders and files among the arguments are bound as they are given; the home folder and the network are not there.
    """
    from doorward.adapters.logs import configure_logs
    from doorward.app.secrets import leave_environment
    from doorward.settings import load

    words = list(command)
    if not words:
        raise OperatorError("wrap-command", "Name the server's command: doorward wrap -- COMMAND ARGUMENTS.")
    server = name or name_of(words)
    path = write_settings(folder_of(server, words, named=bool(name)), server, words, env, file, sandbox)
    loaded = load(path)
    leave_environment(loaded.settings)
    configure_logs()
    from doorward.app.wrapped import Wrapped

    return Wrapped(loaded, server).run()


def name_of(words: Sequence[str]) -> str:
    """A server's name made of its command: the first word that tells what is run."""
    plain = [Path(word).name for word in words if not word.startswith("-")]
    telling = [word for word in plain if word not in _RUNNERS and word != "run"] or plain
    text = re.sub(r"@[0-9][^/]*$|==.*$", "", telling[0]).lower() if telling else ""
    text = re.sub(r"\.(py|js|mjs|ts|sh|exe)$", "", text)
    text = re.sub(r"[^a-z0-9]+", "-", text).strip("-").lstrip("0123456789-")[:_NAME_CHARS].rstrip("-")
    return (
        text
        if text not in ("", "mcp", "oauth", "connect", "healthz", "readyz", "api", "metrics")
        else "server"
    )


def folder_of(server: str, words: Sequence[str], *, named: bool) -> Path:
    """Where a wrapped server's settings, pins and records lie: by its name, else by its command too."""
    home = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    mark = "" if named else "-" + hashlib.sha256("\0".join(words).encode()).hexdigest()[:8]
    return Path(home) / "doorward" / "wrap" / f"{server}{mark}"


def write_settings(
    folder: Path, server: str, words: Sequence[str], env: Sequence[str], files: Sequence[Path], sandbox: str
) -> Path:
    """Write or update the settings of a wrapped server. Raises: OperatorError."""
    import tomlkit

    if sandbox not in ("strict", "none"):
        raise OperatorError("wrap-sandbox", '--sandbox is "strict" or "none".')
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / "doorward.toml"
        text = path.read_text(encoding="utf-8") if path.exists() else _HEAD.format(path=path)
    except OSError as error:
        raise OperatorError("wrap-folder", f"{folder} cannot be used: {error.strerror}.") from error
    document: Any = tomlkit.parse(text)
    document.setdefault("gateway", {}).setdefault("data_dir", "./data")
    document.setdefault("identity", {})["mode"] = "off"
    if "servers" not in document:
        document["servers"] = tomlkit.table(is_super_table=True)
    table = document["servers"].setdefault(server, tomlkit.table())
    table["command"] = [
        _absolute(words[0]),
        *(str(Path(word).absolute()) if _is_path(word) else word for word in words[1:]),
    ]
    table["env"] = {one: {"env": one} for one in env}
    table["files"] = _grants(words[1:], files)
    table["sandbox"] = sandbox
    fresh = tomlkit.dumps(document)
    if fresh != text or not path.exists():
        temporary = path.with_name(f".doorward.toml.{os.getpid()}")
        temporary.write_text(fresh, encoding="utf-8")
        temporary.chmod(0o600)
        temporary.replace(path)
    return path


def _absolute(program: str) -> str:
    """A program named by a relative path is relative to where the client started us."""
    return str(Path.cwd() / program) if "/" in program else program


def _is_path(word: str) -> bool:
    """Whether an argument names a file or folder that is there; the cage has no working folder of the client's."""
    try:
        return not word.startswith("-") and Path(word).exists()
    except OSError:  # longer than any name
        return False


def _grants(words: Sequence[str], files: Sequence[Path]) -> list[dict[str, Any]]:
    """Folders among the arguments may be written, files read: that is what they are named for. Raises: OperatorError."""
    found: dict[str, bool] = {}
    for word in words:
        if _is_path(word):
            found[str(Path(word).absolute())] = Path(word).is_dir()
    for path in files:
        if not path.exists():
            raise OperatorError("wrap-file", f"{path} does not exist.")
        found.setdefault(str(path.absolute()), False)
    home = Path.home()
    for name in found:
        if Path(name) == home or Path(name) in home.parents:
            raise OperatorError(
                "wrap-file",
                f"{name} holds your whole home folder, with its keys: name the folders that the server needs.",
            )
    return [{"path": name, "write": write} for name, write in found.items()]
