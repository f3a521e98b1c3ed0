"""``doorward tools``: which definitions servers offer, which are approved, what changed, and the decision about it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlencode

from cyclopts import App, Parameter

from doorward.base.errors import OperatorError
from doorward.cli.output import paint, print_json, print_table, printable

if TYPE_CHECKING:
    from doorward.adapters.admin_client import AdminClient

tools = App(name="tools", help="Look at what servers offer, and approve or reject it.")

_Config = Annotated[Path | None, Parameter(name="--config", help="The settings file.")]
_Json = Annotated[bool, Parameter(name="--json", help="One JSON document.", negative="")]
_KIND = Annotated[str, Parameter(name="--kind", help="tool, prompt, resource, template or instructions.")]
_COLOURS = {"approved": "green", "held": "yellow", "rejected": "red", "withdrawn": "red"}


@tools.command(name="list")
def list_tools(
    *,
    server: Annotated[str, Parameter(help="Only this server's.")] = "",
    config: _Config = None,
    as_json: _Json = False,
) -> int:
    """List every definition that servers have offered, its pin and whether clients may use it."""
    rows = _listed(config, server)
    if as_json:
        print_json(rows)
        return 0
    if not rows:
        print("No definitions are known yet: they are seen when the first client lists a server's tools.")
        return 0
    titles = ("server", "kind", "name", "state", "callable", "scan", "pin")
    lines = [
        (row["server"], row["kind"], row["name"], row["state"], "yes" if row["callable"] else "no", row["verdict"],
         row["pin"][:19] or "-")
        for row in rows
    ]  # fmt: skip
    print_table(titles, lines, [("", "", "", _COLOURS[row["state"]], "", "", "") for row in rows])
    return 0


@tools.command
def diff(
    server: str, name: str = "", /, *, kind: _KIND = "tool", config: _Config = None, as_json: _Json = False
) -> int:
    """Show what the server offers now against what was approved, word by word. Exit code 1 when they differ."""
    asked = urlencode({"server": server, "kind": kind, "name": name})
    row = _client(config).get(f"/api/v1/tools/diff?{asked}")
    if as_json:
        print_json(row)
    else:
        _show_difference(row)
    return 1 if row["changes"] else 0


@tools.command
def approve(
    server: str,
    name: str = "",
    /,
    *,
    kind: _KIND = "tool",
    pin: Annotated[
        str,
        Parameter(help="The pin that you looked at; required when the definition had been approved before."),
    ] = "",
    every: Annotated[
        bool,
        Parameter(
            name="--all", help="Every held definition of the server that the scan did not block.", negative=""
        ),
    ] = False,
    config: _Config = None,
    as_json: _Json = False,
) -> int:
    """Put what the server offers in force."""
    client = _client(config)
    rows = [
        row
        for row in client.get(f"/api/v1/tools?{urlencode({'server': server})}")
        if _is_meant(row, kind, name, every)
    ]
    if not rows:
        raise OperatorError(
            "definition-unknown", "No such definition waits here; `doorward tools list` shows them."
        )
    approved = []
    for row in rows:
        if row["pin"] and not pin and not every:
            raise OperatorError(
                "definition-stale",
                f"It was approved before and has changed: look at `doorward tools diff {server} {name}` and name what you saw with --pin {row['offered_pin']}.",
            )
        body = {
            "server": row["server"],
            "kind": row["kind"],
            "name": row["name"],
            "pin": pin or row["offered_pin"],
        }
        approved.append(client.post("/api/v1/tools/approve", body))
    return _told(approved, as_json)


@tools.command
def reject(
    server: str, name: str = "", /, *, kind: _KIND = "tool", config: _Config = None, as_json: _Json = False
) -> int:
    """Refuse what the server offers: it stays out of reach until it offers something else."""
    body = {"server": server, "kind": kind, "name": name, "pin": ""}
    return _told([_client(config).post("/api/v1/tools/reject", body)], as_json)


def _is_meant(row: dict[str, Any], kind: str, name: str, every: bool) -> bool:
    if every:
        return row["state"] == "held" and row["verdict"] != "block" and not row["changes"]
    return bool(row["kind"] == kind and row["name"] == name)


def _told(rows: list[dict[str, Any]], as_json: bool) -> int:
    if as_json:
        print_json(rows)
        return 0
    for row in rows:
        print(f"{row['server']} {row['kind']} {printable(row['name'])}: {row['state']}  {row['pin']}")
    return 0


def _client(config: Path | None) -> AdminClient:
    from doorward.adapters.admin_client import AdminClient
    from doorward.settings import load

    return AdminClient(Path(load(config).settings.gateway.data_dir))


def _listed(config: Path | None, server: str) -> list[dict[str, Any]]:
    """From the running Doorward, else as its state was left."""
    from doorward.settings import load

    settings = load(config).settings
    data_dir = Path(settings.gateway.data_dir)
    from doorward.adapters.admin_client import AdminClient

    try:
        found = AdminClient(data_dir).get(
            "/api/v1/tools" + (f"?{urlencode({'server': server})}" if server else "")
        )
        return list(found)
    except OperatorError as error:
        if error.code != "admin-not-running":
            raise
    from doorward.adapters.state import FILE, State
    from doorward.app.definitions import listing, read_pins

    if not (data_dir / FILE).exists():
        return []
    state = State(data_dir)
    try:
        return listing(read_pins(state), settings.servers, server)
    finally:
        state.close()


def _show_difference(row: dict[str, Any]) -> None:
    """Word by word, with everything that a terminal would obey shown as what it is."""
    from doorward.catalogue.changes import words_between

    print(paint(f"{row['server']} {row['kind']} {_safe(row['name'])}  {row['state']}", "bold"))
    print(f"approved  {row['pin'] or '-'}\noffered   {row['offered_pin'] or '-'}")
    if not row["changes"]:
        print("What the server offers is what was approved." if row["pin"] else "Nothing was approved yet.")
    for change in row["changes"]:
        print(f"\n{paint(_safe(change['field']) or '/', 'bold')}  {change['class']}")
        parts = words_between(change["before"], change["after"])
        marks = {"same": ("", "", ""), "gone": ("[-", "-]", "red"), "new": ("{+", "+}", "green")}
        text = ""
        for kind, words in parts:
            before, after, colour = marks[kind]
            shown = f"{before}{_safe(words)}{after}"
            text += paint(shown, colour) if colour else shown
        print(text)


def _safe(text: str) -> str:
    """Text in which hidden characters are seen: U+202E instead of what it does."""
    return "".join(char if char.isprintable() or char == "\n" else f"<U+{ord(char):04X}>" for char in text)
