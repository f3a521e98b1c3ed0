"""``doorward wrap``: put the whole of Doorward before one stdio server, for a client that starts it from its configuration."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from cyclopts import Parameter

from doorward.base.errors import OperatorError

if TYPE_CHECKING:
    from collections.abc import Sequence

_NAME_CHARS = 24
_NAME = re.compile(r"[a-z][a-z0-9-]{0,23}")
_HEAD = """# Written by `doorward wrap`; the command and what it may see are written anew at each start, the rest is yours.
# Look at it with: doorward tools list --config {path}
"""
_RUNNERS = frozenset(
    {"npx", "uvx", "uv", "pipx", "python", "python3", "node", "bunx", "deno", "docker", "env"}
)


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a command line asks for."""

    server: str
    words: tuple[str, ...] = ()
    package: str = ""
    url: str = ""
    header: str = ""  # with ``url``: the field whose value lies in secrets/HEADER
    env: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()  # variables whose values lie in secrets/NAME
    files: tuple[Path, ...] = ()
    sandbox: str = "strict"

    def digest(self) -> str:
        """What a person reviews: changing any of it makes another digest."""
        told = (
            self.server,  # under which its settings and secrets lie
            self.words,
            self.package,
            self.url,
            self.header,
            self.env,
            self.secrets,
            [str(one) for one in self.files],
            self.sandbox,
        )
        return "sha256:" + hashlib.sha256(msgspec.json.encode(told)).hexdigest()


def wrap(
    *command: Annotated[
        str, Parameter(help="The server's command and its arguments, after --.", allow_leading_hyphen=True)
    ],
    name: Annotated[str, Parameter(help="The server's name; made of the command when left out.")] = "",
    package: Annotated[
        str, Parameter(help="pypi:NAME==VERSION or npm:NAME@VERSION: installed once, with hashes on record.")
    ] = "",
    url: Annotated[str, Parameter(help="A server that is reached over HTTP, instead of a command.")] = "",
    header: Annotated[
        str, Parameter(help="With --url: the header whose value lies in the folder's secrets.")
    ] = "",
    env: Annotated[
        tuple[str, ...],
        Parameter(help="A variable of this environment that the server gets; may be repeated.", negative=""),
    ] = (),
    secret: Annotated[
        tuple[str, ...],
        Parameter(help="A variable whose value lies in the folder's secrets; may be repeated.", negative=""),
    ] = (),
    file: Annotated[
        tuple[Path, ...], Parameter(help="A further file or folder that the server may read.", negative="")
    ] = (),
    sandbox: Annotated[
        str, Parameter(help='"strict", or "none" to start it without a cage, on record.')
    ] = "strict",
    reviewed: Annotated[
        bool,
        Parameter(help="Start only what `doorward import` has shown and somebody accepted.", negative=""),
    ] = False,
) -> int:
    """Run a stdio server behind Doorward, and speak to the client over stdin and stdout.

    Folders and files among the arguments are bound as they are given; the home folder and the network are not there.
    """
    from doorward.adapters.logs import configure_logs
    from doorward.app.secrets import leave_environment
    from doorward.settings import load

    if bool(command) == bool(url):
        raise OperatorError(
            "wrap-command", "Name either a command, doorward wrap -- COMMAND ARGUMENTS, or --url."
        )
    words = command or (url,)
    server = name or name_of(words)
    wanted = Wanted(
        server=server, words=command, package=package, url=url, header=header, env=env, secrets=secret, files=file,
        sandbox=sandbox,
    )  # fmt: skip
    check_wanted(wanted, reviewed=reviewed)
    folder = folder_of(server, words, named=bool(name))
    loaded = load(write_settings(folder, wanted))
    if package:
        install(folder, wanted)
    leave_environment(loaded.settings)
    configure_logs()
    from doorward.app.wrapped import Wrapped

    return Wrapped(loaded, server).run()


def check_wanted(wanted: Wanted, *, reviewed: bool) -> None:
    """Raises: OperatorError before anything is read or written under a name that is none, or run unseen."""
    if not _NAME.fullmatch(wanted.server):  # SECURITY: it becomes a folder
        raise OperatorError(
            "wrap-name", "A server's name is a to z, 0 to 9 and -, begins with a letter, at most 24 long."
        )
    if reviewed:
        check_reviewed(wanted)
        check_within(Path.cwd(), (*wanted.words[1:], *map(str, wanted.files)))


def install(folder: Path, wanted: Wanted) -> str:
    """Install the package of a wrapped server unless it is there; the program that it brings. Raises: OperatorError."""
    from doorward.adapters.packages import Packages, parse_package

    packages = Packages(folder / "data")
    try:
        if packages.lock(wanted.server).get("package") == wanted.package:
            return packages.commands(wanted.server)[0]
    except OperatorError:
        pass  # not installed yet
    packages.install(wanted.server, parse_package(wanted.package), say=_say)
    return packages.commands(wanted.server)[0]


def _say(text: str) -> None:
    sys.stderr.write(f"doorward: {text}\n")


def check_reviewed(wanted: Wanted) -> None:
    """Raises: OperatorError ``wrap-not-reviewed``."""
    if wanted.digest() not in read_reviewed():
        raise OperatorError(
            "wrap-not-reviewed",
            "This is not the command that was reviewed: run `doorward import` in the project, look at it and apply it again.",
        )


def check_within(project: Path, words: Sequence[str]) -> None:
    """Refuse what lies in the project by name only: its author could make a link of it at any time. Raises: OperatorError."""
    for word in words:
        if not _is_path(word):
            continue
        named = Path(os.path.abspath(project / word))  # as it was reviewed, links not followed
        if named.is_relative_to(project) and not named.resolve().is_relative_to(project.resolve()):
            raise OperatorError("wrap-file", f"{word} is a link that leads out of the project.")


def read_reviewed() -> set[str]:
    """Digests of the commands that somebody accepted. Raises: OperatorError."""
    try:
        return set(msgspec.json.decode(_reviewed_path().read_bytes(), type=list[str]))
    except FileNotFoundError:
        return set()
    except (OSError, msgspec.MsgspecError) as error:
        raise OperatorError("wrap-folder", f"{_reviewed_path()} cannot be read.") from error


def add_reviewed(digests: set[str]) -> None:
    """Accept commands."""
    path = _reviewed_path()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    known = sorted(read_reviewed() | digests)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(msgspec.json.encode(known))
    temporary.chmod(0o600)
    temporary.replace(path)


def _reviewed_path() -> Path:
    return home_folder() / "reviewed.json"


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
    mark = "" if named else "-" + hashlib.sha256("\0".join(words).encode()).hexdigest()[:8]
    return home_folder() / f"{server}{mark}"


def home_folder() -> Path:
    """The folder of all wrapped servers."""
    home = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(home) / "doorward" / "wrap"


def write_settings(folder: Path, wanted: Wanted) -> Path:
    """Write or update the settings of a wrapped server. Raises: OperatorError."""
    import tomlkit

    if wanted.sandbox not in ("strict", "none"):
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
    table = document["servers"].setdefault(wanted.server, tomlkit.table())
    for key in ("command", "package", "env", "files", "sandbox", "url", "credentials"):
        table.pop(key, None)
    table.update(_how_reached(wanted) if wanted.url else _how_started(wanted))
    fresh = tomlkit.dumps(document)
    if fresh != text or not path.exists():
        temporary = path.with_name(f".doorward.toml.{os.getpid()}")
        temporary.write_text(fresh, encoding="utf-8")
        temporary.chmod(0o600)
        temporary.replace(path)
    return path


def _how_reached(wanted: Wanted) -> dict[str, Any]:
    found: dict[str, Any] = {"url": wanted.url}
    if wanted.header:
        value = {"file": str(Path("secrets") / "header")}
        found["credentials"] = {"type": "header", "name": wanted.header, "value": value}
    return found


def _how_started(wanted: Wanted) -> dict[str, Any]:
    program, *rest = wanted.words
    found: dict[str, Any] = {
        "command": [
            program if wanted.package else _absolute(program),
            *(str(Path(word).absolute()) if _is_path(word) else word for word in rest),
        ],
        "env": {
            **{one: {"env": one} for one in wanted.env},
            **{one: {"file": str(Path("secrets") / one)} for one in wanted.secrets},
        },
        "files": _grants(rest, wanted.files),
        "sandbox": wanted.sandbox,
    }
    return {**found, "package": wanted.package} if wanted.package else found


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
    home = Path.home().resolve()
    for name in found:
        meant = Path(name).resolve()  # not what it is called: a link, or a name with .., may lead anywhere
        if meant == home or meant in home.parents:
            raise OperatorError(
                "wrap-file",
                f"{name} holds your whole home folder, with its keys: name the folders that the server needs.",
            )
    return [{"path": name, "write": write} for name, write in found.items()]
