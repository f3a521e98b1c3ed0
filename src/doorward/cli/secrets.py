"""``doorward secrets``: which secrets the settings refer to, where each is used, and whether it can be read; never a value."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from doorward.adapters.admin_client import AdminClient
from doorward.base.errors import OperatorError
from doorward.cli.output import print_json, print_table

secrets = App(name="secrets", help="List and check the secrets that the settings refer to.")

_Config = Annotated[Path | None, Parameter(name="--config", help="The settings file.")]
_Json = Annotated[bool, Parameter(name="--json", help="One JSON document.", negative="")]


@secrets.command(name="list")
def list_all(*, config: _Config = None, as_json: _Json = False) -> int:
    """List the references; state and times come from a running Doorward."""
    _show(_rows(config, check=False), as_json=as_json)
    return 0


@secrets.command(name="check")
def check(*, config: _Config = None, as_json: _Json = False) -> int:
    """Read every secret now, through the running Doorward or by itself; exit 1 when one cannot be read."""
    rows = _rows(config, check=True)
    _show(rows, as_json=as_json)
    return 0 if all(row["state"] == "ok" for row in rows) else 1


def _rows(config: Path | None, *, check: bool) -> list[dict[str, Any]]:
    from doorward.app.secret_room import rows_of
    from doorward.app.secrets import SecretReader, Seen, kind_of, place_of
    from doorward.settings import load
    from doorward.settings_secrets import references_of

    settings = load(config).settings
    client = AdminClient(Path(settings.gateway.data_dir), seconds=60.0)
    try:
        found = client.post("/api/v1/secrets/check") if check else client.get("/api/v1/secrets")
        return list(found)
    except OperatorError as error:
        if error.code != "admin-not-running":
            raise
    reader = SecretReader(settings, own_environment=True)
    for where, reference in references_of(settings):
        reader.seen[where] = Seen(kind_of(reference), place_of(reference))
        if check:
            try:
                reader.resolve(reference, where)
            except OperatorError:
                continue  # its row says so
    return rows_of(reader.seen)


def _show(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json(rows)
        return
    titles = ("key", "kind", "place", "state", "why", "last_read")
    print_table(titles, [[row[title] or "" for title in titles] for row in rows])
