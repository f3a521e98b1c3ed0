"""``doorward consents``: which users agreed to which OAuth clients, and how to take that back."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from doorward.cli.output import print_json, print_table

consents = App(name="consents", help="List and take back what users agreed to.")


@consents.command(name="list")
def list_consents(
    *,
    as_json: Annotated[bool, Parameter(name="--json", help="One JSON document.", negative="")] = False,
    config: Annotated[Path | None, Parameter(name="--config", help="The settings file.")] = None,
) -> int:
    """List consents; Doorward must be running."""
    from doorward.adapters.admin_client import AdminClient
    from doorward.settings import load

    rows = AdminClient(Path(load(config).settings.gateway.data_dir)).get("/api/v1/consents")
    if as_json:
        print_json(rows)
        return 0
    titles = ("id", "user", "client", "may use", "since")
    print_table(
        titles,
        [(one["id"], one["user"], one["client_name"], " ".join(one["resources"]), one["at"]) for one in rows],
    )
    return 0


@consents.command
def revoke(
    consent: Annotated[str, Parameter(help="The consent's id.")],
    *,
    as_json: Annotated[bool, Parameter(name="--json", help="One JSON document.", negative="")] = False,
    config: Annotated[Path | None, Parameter(name="--config", help="The settings file.")] = None,
) -> int:
    """Take a consent back, and with it every token that was made from it."""
    from urllib.parse import quote

    from doorward.adapters.admin_client import AdminClient
    from doorward.settings import load

    client = AdminClient(Path(load(config).settings.gateway.data_dir))
    done = client.delete(f"/api/v1/consents/{quote(consent, safe='')}")
    if as_json:
        print_json(done)
    else:
        sys.stdout.write(f"Taken back; {done['tokens']} access tokens ended with it.\n")
    return 0
