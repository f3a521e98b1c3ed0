"""``doorward import``: find the MCP servers of desktop clients, show what each would run, and put Doorward before them."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from doorward.adapters.client_files import Backups, ClientFile, digest_of, places, read_config
from doorward.base.errors import CallerError, OperatorError
from doorward.catalogue.client_configs import Entry, Rewrite, entries_of, rewritten
from doorward.catalogue.client_risks import Risk, is_secret, risks_of
from doorward.cli.import_plan import Plan, plan_of
from doorward.cli.output import paint, print_json
from doorward.cli.wrap import add_reviewed, home_folder, install, write_settings

_COLOURS = {"critical": "red", "high": "red", "medium": "yellow", "low": "green"}


class Found(msgspec.Struct, frozen=True):
    """One configuration file with its servers, or why it cannot be read."""

    file: ClientFile
    content: bytes
    entries: tuple[Entry, ...] = ()
    problem: str = ""


def import_(
    *,
    client: Annotated[str, Parameter(help="Only this client, such as cursor or vs-code.")] = "",
    project: Annotated[Path, Parameter(help="Look for a project's own files here.")] = Path(),
    apply: Annotated[
        bool,
        Parameter(help="Rewrite the files of the user so that servers go through Doorward.", negative=""),
    ] = False,
    reviewed: Annotated[
        tuple[str, ...],
        Parameter(help="With --apply: a project's file, by the digest that was shown.", negative=""),
    ] = (),
    pin: Annotated[
        bool,
        Parameter(
            help="With --apply: install and pin the newest version of packages that are fetched at each start.",
            negative="",
        ),
    ] = False,
    undo: Annotated[bool, Parameter(help="Put every file back as it was, to the byte.", negative="")] = False,
    as_json: Annotated[bool, Parameter(name="--json", help="One JSON document.", negative="")] = False,
) -> int:
    """Show the MCP servers that this machine's clients start, in full, with their risks. Nothing changes without --apply.

    Files of a project come from whoever wrote the project: they are shown, and changed only when named by their digest with --reviewed.
    """
    if undo:
        return _undo(as_json=as_json)
    found = [one for one in _look(Path.home(), project.absolute()) if client in ("", _word(one.file.client))]
    newest = _newest if pin and apply else None
    plans = {
        (one.file.path, entry.path): plan_of(one.file, entry, newest)
        for one in found
        for entry in one.entries
    }
    if apply:
        return _apply(found, plans, frozenset(reviewed), as_json=as_json)
    if as_json:
        print_json([_row(one, plans) for one in found])
    else:
        _show(found, plans)
    return 0


def _newest(registry: str, name: str) -> str:
    from doorward.adapters.packages import Packages

    return Packages(home_folder()).newest(registry, name)


def _word(client: str) -> str:
    return client.lower().replace(" ", "-")


def _look(home: Path, project: Path) -> list[Found]:
    found = []
    for place in places(home, project):
        try:
            content = read_config(place.path)
        except OperatorError as error:
            found.append(Found(place, b"", problem=error.tell))
            continue
        if content is None:
            continue
        if place.scope == "project" and not place.path.resolve().is_relative_to(project.resolve()):
            found.append(Found(place, b"", problem="it is a link that leads out of the project."))
            continue
        try:
            entries = entries_of(place.format, content.decode("utf-8"))
            found.append(Found(place, content, tuple(entries)))
        except UnicodeDecodeError:
            found.append(Found(place, content, problem="it is not UTF-8."))
        except CallerError as error:
            found.append(Found(place, content, problem=error.tell))
    return found


# -- showing ----------------------------------------------------------------------------------------------------------


def _row(one: Found, plans: dict[Any, Plan]) -> dict[str, Any]:
    return {
        "client": one.file.client,
        "scope": one.file.scope,
        "path": str(one.file.path),
        "digest": digest_of(one.content),
        "problem": one.problem,
        "servers": [_server(entry, plans[(one.file.path, entry.path)]) for entry in one.entries],
    }


def _server(entry: Entry, plan: Plan) -> dict[str, Any]:
    """A server in full, but for its secrets."""
    hidden = {name: "(secret)" if is_secret(name, value) else value for name, value in entry.env.items()}
    headers = {name: "(secret)" if is_secret(name, value) else value for name, value in entry.headers.items()}
    return {
        "name": entry.name,
        "at": list(entry.path),
        "kind": "url" if entry.url else "stdio",
        "command": list(entry.command),
        "url": entry.url,
        "env": hidden,
        "headers": headers,
        "off": entry.is_off,
        "wrapped": entry.is_wrapped,
        "applies": plan.wanted is not None,
        "why_not": plan.why_not,
        "risks": _risks(entry),
    }


def _risks(entry: Entry) -> list[Risk]:
    return risks_of(entry, str(Path.home()))


def _show(found: list[Found], plans: dict[Any, Plan]) -> None:
    if not found:
        print("No client on this machine has a configuration with MCP servers.")
        return
    for one in found:
        scope = (
            "a project's own file: untrusted, nothing of it is started"
            if one.file.scope == "project"
            else "yours"
        )
        print(f"\n{paint(one.file.client, 'bold')}  {_escaped(str(one.file.path))}  ({scope})")
        if one.file.scope == "project":
            print(f"  digest {digest_of(one.content)}")
        if one.problem:
            print(f"  {paint('cannot be read', 'red')}: {_escaped(one.problem)}")
        for entry in one.entries:
            _show_entry(entry, plans[(one.file.path, entry.path)])
    count = sum(plan.wanted is not None for plan in plans.values())
    print(
        f"\n{count} of {len(plans)} servers can go through Doorward: doorward import --apply (and --undo takes it back)."
    )


def _show_entry(entry: Entry, plan: Plan) -> None:
    state = "through Doorward already" if entry.is_wrapped else ("switched off" if entry.is_off else "")
    print(f"  {paint(_escaped(entry.name), 'bold')}  {state}".rstrip())
    if entry.url:
        print(f"    {_escaped(entry.url)}")
    for word in entry.command:
        print(f"    {_escaped(word)}")
    for name, value in entry.env.items():
        print(f"    env {_escaped(name)} = {'(secret)' if is_secret(name, value) else _escaped(value)}")
    for name, value in entry.headers.items():
        print(f"    header {_escaped(name)}: {'(secret)' if is_secret(name, value) else _escaped(value)}")
    for risk in _risks(entry):
        print(
            f"    {paint(risk.severity, _COLOURS[risk.severity])}  {_escaped(risk.where)}: {_escaped(risk.message)}  [{risk.rule}]"
        )
    if plan.why_not and not entry.is_wrapped:
        print(f"    {paint('stays as it is', 'yellow')}: {plan.why_not}")


def _escaped(text: str) -> str:
    """The whole text; what does not show, or turns text around, is written as its number."""
    return "".join(char if char.isprintable() else f"<U+{ord(char):04X}>" for char in text)


# -- changing ---------------------------------------------------------------------------------------------------------


def _apply(found: list[Found], plans: dict[Any, Plan], reviewed: frozenset[str], *, as_json: bool) -> int:
    unknown = reviewed - {digest_of(one.content) for one in found if one.file.scope == "project"}
    if unknown:
        raise OperatorError(
            "import-changed",
            "No file of this project has the digest that was reviewed: it has changed since. Look at it again; nothing was written.",
        )
    backups = Backups(home_folder().parent / "import")
    done: list[dict[str, Any]] = []
    for one in found:
        if one.file.scope == "project" and digest_of(one.content) not in reviewed:
            continue
        chosen = [(entry, plans[(one.file.path, entry.path)]) for entry in one.entries]
        chosen = [(entry, plan) for entry, plan in chosen if plan.wanted is not None]
        if chosen:
            fresh = _rewritten(one, chosen)
            backups.replace(one.file.path, one.content, fresh)
            done += [{"path": str(one.file.path), "server": entry.name} for entry, _ in chosen]
    if as_json:
        print_json(done)
        return 0
    for row in done:
        print(f"{_escaped(row['server'])}: goes through Doorward now ({row['path']})")
    left = [plan.why_not for plan in plans.values() if plan.why_not and plan.wanted is None]
    print(
        f"{len(done)} servers changed, {len(left)} left as they are. Start the clients anew. `doorward import --undo` takes it back."
    )
    return 0


def _rewritten(one: Found, chosen: list[tuple[Entry, Plan]]) -> bytes:
    """The file's new bytes; secrets and settings of each server are in place before."""
    rewrites = {}
    digests = set()
    for entry, plan in chosen:
        wanted = plan.wanted
        if wanted is None:
            continue
        folder = home_folder() / wanted.server
        for name, value in plan.secrets.items():
            _keep_secret(folder, name, value)
        if wanted.package:
            program = install(folder, wanted)
            wanted = msgspec.structs.replace(wanted, words=(program, *wanted.words[1:]))
        write_settings(folder, wanted)
        digests.add(wanted.digest())
        rewrites[entry.path] = Rewrite(
            (own_command(), *plan.arguments(wanted, one.file.scope)),
            tuple(plan.secrets) if entry.command else (),
        )
    add_reviewed(digests)
    return rewritten(one.file.format, one.content.decode("utf-8"), rewrites).encode()


def _keep_secret(folder: Path, name: str, value: str) -> None:
    place = folder / "secrets"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(
        place / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
    )
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        os.fchmod(descriptor, 0o600)
        stream.write(value)


def own_command() -> str:
    """How a client, which may have hardly any PATH, starts this Doorward."""
    beside = Path(sys.executable).parent / "doorward"
    return str(beside) if beside.exists() else shutil.which("doorward") or "doorward"


def _undo(*, as_json: bool) -> int:
    rows: list[dict[str, Any]] = []
    fine = Backups(home_folder().parent / "import").undo(
        lambda path, done: rows.append({"path": str(path), "restored": done})
    )
    if as_json:
        print_json(rows)
    elif not rows:
        print("Nothing was changed by `doorward import`.")
    else:
        for row in rows:
            what = "as it was" if row["restored"] else "stays: it, or what was kept of it, was changed since"
            print(f"{row['path']}: {what}")
    return 0 if fine else 1
