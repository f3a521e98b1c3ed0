"""``doorward servers``: list, add and remove the protected servers of a settings file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from cyclopts import App, Parameter

from doorward.base.errors import OperatorError

if TYPE_CHECKING:
    from doorward.adapters.packages import Packages

servers = App(name="servers", help="List, add and remove protected servers.")

_Config = Annotated[Path | None, Parameter(name="--config", help="The settings file.")]
_Json = Annotated[bool, Parameter(name="--json", help="One JSON document.", negative="")]
_RESERVED = frozenset({"mcp", "oauth", "connect", "healthz", "readyz", "api", "metrics"})
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz")
_NAME_CHARS = 24


@servers.command(name="list")
def list_servers(*, config: _Config = None, as_json: _Json = False) -> int:
    """List the servers, how each is started or reached, and whether its package is installed."""
    from doorward.settings import load

    settings = load(config).settings
    packages = _packages(settings)
    rows = [
        {
            "name": spec.name,
            "kind": "stdio" if spec.is_stdio else "http",
            "package": spec.package,
            "command": list(spec.command),
            "url": spec.url,
            "sandbox": spec.sandbox if spec.is_stdio else "",
            "installed": _is_installed(packages, spec.name) if spec.package else None,
        }
        for spec in settings.servers.values()
    ]
    if as_json:
        sys.stdout.write(msgspec.json.encode(rows).decode() + "\n")
        return 0
    for spec in settings.servers.values():
        where = spec.url or " ".join(spec.command)
        state = ""
        if spec.package:
            state = "installed" if _is_installed(packages, spec.name) else "NOT INSTALLED"
        bare = "NO CAGE" if spec.is_stdio and spec.sandbox == "none" else ""
        kind = "stdio" if spec.is_stdio else "http"
        print("  ".join(part for part in (spec.name, kind, where, spec.package, state, bare) if part))
    return 0


@servers.command
def add(
    package: str,
    /,
    *,
    name: Annotated[str, Parameter(help="The server's name; made of the package's when left out.")] = "",
    command: Annotated[
        tuple[str, ...],
        Parameter(help="The command and its arguments.", consume_multiple=True, allow_leading_hyphen=True),
    ] = (),
    beside: Annotated[
        tuple[str, ...],
        Parameter(name="--with", help="A further package to install beside it, such as 'mcp<2'."),
    ] = (),
    config: _Config = None,
) -> int:
    """Install pypi:NAME==VERSION or npm:NAME@VERSION once, record its hashes, and write it into the settings file.

    Install scripts are off: PyPI packages come as wheels, npm packages without their scripts. Nothing is fetched later.
    """
    from doorward.adapters.packages import parse_package
    from doorward.settings import load

    wanted = parse_package(package)
    server = name or wanted.short
    _check_name(server)
    loaded = load(config)
    packages = _packages(loaded.settings)
    path = _path_of(loaded, config)
    lock = packages.install(server, wanted, beside, say=lambda text: print(text, file=sys.stderr))
    brought = packages.commands(server)
    if not command and not brought:
        packages.remove(server)
        raise OperatorError(
            "command-not-found", f"{package} brings no command: it is no server; or name one with --command."
        )
    words = list(command) or [_best(brought, wanted.name)]
    _write_table(path, server, package, words)
    count = len(lock["distributions"])
    print(
        f"{server}: {package}, {count} packages with {len(lock['files'])} files on record; command: {' '.join(words)}"
    )
    print(
        f"written to {path} as [servers.{server}]; a running Doorward in profile local takes it up by itself"
    )
    return 0


@servers.command
def remove(name: str, /, *, config: _Config = None) -> int:
    """Take a server out of the settings file and delete its package."""
    import tomlkit

    from doorward.settings import load

    loaded = load(config)
    path = _path_of(loaded, config)
    document: Any = tomlkit.parse(path.read_text(encoding="utf-8"))
    tables = document.get("servers", {})
    if name not in tables:
        known = ", ".join(tables) or "none"
        raise OperatorError("server-unknown", f"There is no server {name!r} in {path}; there are: {known}.")
    del tables[name]
    _replace(path, tomlkit.dumps(document))
    _packages(loaded.settings).remove(name)
    print(f"{name} is out of {path}")
    return 0


def _packages(settings: Any) -> Packages:
    from doorward.adapters.packages import Packages

    return Packages(Path(settings.gateway.data_dir))


def _is_installed(packages: Packages, server: str) -> bool:
    try:
        packages.lock(server)
    except OperatorError:
        return False
    return True


def _path_of(loaded: Any, config: Path | None) -> Path:
    """The settings file that was loaded."""
    path = config or getattr(loaded, "path", None)
    if path is None:
        raise OperatorError(
            "settings-missing", "There is no settings file to write to; name one with --config."
        )
    return Path(path)


def _best(commands: list[str], package: str) -> str:
    plain = package.rpartition("/")[2]
    return plain if plain in commands else commands[0]


def _check_name(name: str) -> None:
    fine = (
        0 < len(name) <= _NAME_CHARS
        and name[0] in _LETTERS
        and set(name) <= _LETTERS | set("0123456789-")
        and name not in _RESERVED
    )
    if not fine:
        raise OperatorError(
            "server-name",
            f"{name!r} is no server name: a letter, then up to 23 of a-z, 0-9 and '-'; use --name.",
        )


def _write_table(path: Path, server: str, package: str, command: list[str]) -> None:
    """Write or update ``[servers.NAME]``; comments and everything else stay as they are."""
    import tomlkit

    document: Any = tomlkit.parse(path.read_text(encoding="utf-8"))
    if "servers" not in document:
        document["servers"] = tomlkit.table(is_super_table=True)
    tables = document["servers"]
    if server not in tables:
        tables[server] = tomlkit.table()
    table = tables[server]
    if "url" in table:
        raise OperatorError("server-name", f"The server {server} has a url in {path}; choose another --name.")
    table["package"] = package
    table["command"] = command
    _replace(path, tomlkit.dumps(document))


def _replace(path: Path, text: str) -> None:
    """Put a whole new file in place at once, so that a reader never sees half of it."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text, encoding="utf-8")
    fresh.chmod(path.stat().st_mode & 0o777)
    fresh.replace(path)
