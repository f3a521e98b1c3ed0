"""``doorward alerts``: what a running Doorward raised, how often and when."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from doorward.adapters.admin_client import AdminClient
from doorward.cli.output import print_json, print_table

alerts = App(name="alerts", help="What must not wait.")

_Config = Annotated[Path | None, Parameter(name="--config", help="The settings file.")]
_Json = Annotated[bool, Parameter(name="--json", help="One JSON document.", negative="")]


@alerts.command(name="list")
def list_all(*, config: _Config = None, as_json: _Json = False) -> int:
    """List alerts of the last 30 days, newest first; exit 1 when there are any."""
    from doorward.settings import load

    rows = AdminClient(Path(load(config).settings.gateway.data_dir)).get("/api/v1/alerts")
    if as_json:
        print_json(rows)
    else:
        titles = ("last", "count", "rule", "item", "server", "principal", "address", "reason")
        print_table(titles, [[row[title] for title in titles] for row in rows])
    return 1 if rows else 0
