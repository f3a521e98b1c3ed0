"""``doorward login-link``: print a link that signs a browser in once, as one of the embedded accounts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from doorward.cli.output import print_json


def login_link(
    *,
    user: Annotated[str, Parameter(name="--user", help="Whom the link signs in.")],
    as_json: Annotated[bool, Parameter(name="--json", help="One JSON document.", negative="")] = False,
    config: Annotated[Path | None, Parameter(name="--config", help="The settings file.")] = None,
) -> int:
    """Print a link that signs a browser in once, within ten minutes; Doorward must be running."""
    from doorward.adapters.admin_client import AdminClient
    from doorward.settings import load

    settings = load(config).settings
    made = AdminClient(Path(settings.gateway.data_dir)).post("/api/v1/login-links", {"user": user})
    if made["created"]:
        sys.stderr.write(
            f"{user} stands in no settings: an account of this sign-in only, allowed in this profile.\n"
        )
    if as_json:
        print_json(made)
    else:
        sys.stdout.write(made["url"] + "\n")
    return 0
