"""``doorward doctor``: is this machine fit, are the settings right; each line says what to do."""

from __future__ import annotations

import os
import resource
import socket
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from doorward.base.clock import SystemClock
from doorward.base.errors import DoorwardError, OperatorError
from doorward.cli.doctor_lines import Line, State
from doorward.cli.doctor_tls import tls_lines
from doorward.cli.main import ENVIRONMENT, FINE, USAGE
from doorward.cli.output import paint, print_json, printable

if TYPE_CHECKING:
    from doorward.settings import Loaded, Settings

_COLOUR = {"ok": "green", "warn": "yellow", "fail": "red"}
_OPEN_FILES = 4_096
_BUILT_AT = 1_793_491_200.0  # 2026-11-01: a clock before this cannot judge a token's times


doctor_app = App(name="doctor", help="Say in plain words what is wrong with this machine or the settings.")
doctor_app.command(
    "doorward.cli.doctor_oauth:oauth",
    name="oauth",
    help="Say what does not fit between a server, its issuers and a token.",
)


def print_lines(lines: Sequence[Line], *, as_json: bool) -> None:
    """One line each, or all as one document."""
    if as_json:
        print_json(lines)
        return
    for line in lines:
        mark = paint(line.state.ljust(4), _COLOUR[line.state])
        sys.stdout.write(f"{mark}  {line.name}: {printable(line.what)}\n")


@doctor_app.default
def doctor(
    *,
    as_json: Annotated[bool, Parameter(name="--json", help="One JSON document.", negative="")] = False,
    config: Annotated[Path | None, Parameter(name="--config", help="The settings file.")] = None,
) -> int:
    """Say in plain words what is wrong with this machine or the settings."""
    lines = list(_look(config))
    print_lines(lines, as_json=as_json)
    bad = {line.about for line in lines if line.state == "fail"}
    if "machine" in bad:
        return ENVIRONMENT
    return USAGE if bad else FINE


def _look(config: Path | None) -> Iterator[Line]:
    from doorward.settings import load

    yield _python()
    yield _open_files()
    yield _clock()
    loaded: Loaded | None = None
    try:
        loaded = load(config)
        yield _policies(loaded)
    except OperatorError as error:
        yield Line("settings", "fail", f"{error.tell} [{error.code}]", "settings")
    if loaded is None:
        yield _cage(Path.cwd() / "doorward-data", Path.cwd(), needed=False)
        return
    settings = loaded.settings
    data_dir = Path(settings.gateway.data_dir)
    caged = any(spec.is_stdio and spec.sandbox == "strict" for spec in settings.servers.values())
    yield _cage(data_dir, loaded.path.parent, needed=caged)
    yield _data_dir(data_dir)
    running = _is_running(data_dir)
    yield _port("gateway.listen", settings.gateway.listen, running=running)
    yield _port("admin.listen", settings.admin.listen, running=running)
    yield from tls_lines(settings, data_dir, running=running)
    yield from _secrets(settings)
    if running and settings.identity.issuers:
        yield from _issuers(data_dir)
    yield from _packages(settings, data_dir)


def _python() -> Line:
    version = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info < (3, 11):  # noqa: UP036 - somebody may run it from a copied tree
        return Line("python", "fail", f"{version} is too old; Doorward needs 3.11 or newer.")
    return Line("python", "ok", version)


def _open_files() -> Line:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= _OPEN_FILES:
        return Line("open files", "ok", f"up to {soft} at once")
    advice = (
        f"run `ulimit -n {_OPEN_FILES}` first"
        if hard >= _OPEN_FILES
        else "raise the hard limit (limits.conf)"
    )
    return Line("open files", "warn", f"only {soft} at once, enough for about {soft // 3} clients; {advice}.")


def _clock() -> Line:
    if SystemClock().now() < _BUILT_AT:
        return Line(
            "clock", "fail", "it is earlier than this version; tokens cannot be judged. Set the time."
        )
    return Line("clock", "ok", "plausible")


def _policies(loaded: Loaded) -> Line:
    from doorward.policy.engine import PolicyEngine
    from doorward.settings_load import policy_texts

    settings = loaded.settings
    PolicyEngine(settings.roles, policy_texts(settings), tuple(settings.servers))
    if not settings.servers:
        return Line(
            "settings",
            "warn",
            f"{loaded.path} protects no server yet; add a [servers.NAME] table.",
            "settings",
        )
    return Line("settings", "ok", f"{loaded.path}, servers: {', '.join(settings.servers)}", "settings")


def _cage(data_dir: Path, base: Path, *, needed: bool) -> Line:
    from doorward.adapters.cage import Cage

    state, what = Cage(data_dir, base).probe()
    if state == "ok":
        return Line("cage", "ok", what)
    return Line("cage", "fail" if needed else "warn", what)


def _data_dir(folder: Path) -> Line:
    """Keys and the ledger lie there: it must be ours alone."""
    name = "data folder"
    try:
        found = folder.stat()
    except FileNotFoundError:
        parent = next(one for one in folder.parents if one.exists())
        if os.access(parent, os.W_OK | os.X_OK):
            return Line(name, "ok", f"{folder} will be made at the first start")
        return Line(name, "fail", f"{folder} cannot be made: {parent} is not writable for you.")
    except OSError as error:
        return Line(name, "fail", f"{folder}: {error.strerror}.")
    if not stat.S_ISDIR(found.st_mode):
        return Line(name, "fail", f"{folder} is not a folder; name another in gateway.data_dir.")
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return Line(name, "fail", f"{folder} is not writable for you; change its owner.")
    if found.st_mode & 0o077:
        return Line(name, "warn", f"others may look into {folder}; run chmod 700 {folder}.")
    return Line(name, "ok", str(folder))


def _is_running(data_dir: Path) -> bool:
    from doorward.adapters.admin_client import AdminClient

    try:
        AdminClient(data_dir, seconds=2.0).get("/api/v1/controls")
    except OperatorError as error:
        return error.code != "admin-not-running"
    return True


def _issuers(data_dir: Path) -> Iterator[Line]:
    """Whether the Doorward that runs has the keys of the issuers that it trusts."""
    from doorward.adapters.admin_client import AdminClient

    marks: dict[str, State] = {"ok": "ok", "degraded": "warn"}
    try:
        found = AdminClient(data_dir, seconds=2.0).get("/api/v1/issuers")
    except OperatorError as error:
        yield Line("issuers", "warn", error.tell)
        return
    for one in found:
        wrong = one["error"]
        why = f"; {wrong['tell']}" if wrong else ""
        what = f"{one['state']}, {len(one['keys'])} keys that count until {one['until'] or 'they are fetched'}{why}"
        yield Line(f"issuer {one['issuer']}", marks.get(one["state"], "fail"), what, "settings")


def _port(name: str, listen: str, *, running: bool) -> Line:
    from doorward.settings_common import split_listen

    host, port = split_listen(listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    if running:
        return Line(name, "ok", f"{listen}, in use by the Doorward that runs with these settings")
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        return Line(
            name, "fail", f"{listen} cannot be used ({error.strerror}); end what uses it or choose another."
        )
    return Line(name, "ok", f"{listen} is free")


def _secrets(settings: Settings) -> Iterator[Line]:
    from doorward.catalogue.server import SecretReference
    from doorward.settings_load import resolve

    for name, spec in settings.servers.items():
        for key, value in (*spec.env.items(), ("credentials", spec.credentials.value)):
            if isinstance(value, SecretReference):
                yield _tried(f"secret of servers.{name}.{key}", "found", partial(resolve, value))

    for index, one in enumerate(settings.identity.issuers):
        if one.introspection is not None:
            where = f"identity.issuers[{index}].introspection.client_secret"
            yield _tried(f"secret of {where}", "found", partial(resolve, one.introspection.client_secret))


def _packages(settings: Settings, data_dir: Path) -> Iterator[Line]:
    from doorward.adapters.packages import Packages

    for name, spec in settings.servers.items():
        if spec.package:
            yield _tried(
                f"package of servers.{name}",
                f"{spec.package} is installed as recorded",
                partial(Packages(data_dir).verify, name),
            )


def _tried(name: str, fine: str, look: Callable[[], object]) -> Line:
    try:
        look()
    except DoorwardError as error:
        return Line(name, "fail", error.tell)
    return Line(name, "ok", fine)
