"""``doorward keys ca``: an authority for this machine alone, and a certificate for Doorward on loopback."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from doorward.base.clock import rfc3339
from doorward.base.errors import OperatorError
from doorward.cli.main import FINE
from doorward.cli.output import print_json


def ca(
    *,
    client: Annotated[
        str, Parameter(name="--client", help="Make a certificate for a client of this name instead.")
    ] = "",
    days: Annotated[int, Parameter(name="--days", help="How long the certificate lives, 1 to 90.")] = 30,
    renew: Annotated[
        bool, Parameter(name="--renew", help="A new certificate although the old one is good.", negative="")
    ] = False,
    folder: Annotated[
        Path | None,
        Parameter(name="--folder", help="Where all of it lies; the folder tls of the data folder."),
    ] = None,
    as_json: Annotated[bool, Parameter(name="--json", help="One JSON document.", negative="")] = False,
    config: Annotated[Path | None, Parameter(name="--config", help="The settings file.")] = None,
) -> int:
    """Make, or renew, a certificate for Doorward on this machine, and say what to do with it.

    The authority can sign for localhost and loopback addresses only, so that trusting it opens no other site to anybody.
    """
    from doorward.adapters.local_authority import make_client_leaf, make_server_leaf

    place = _place(folder, config)
    now = time.time()
    if client:
        made = make_client_leaf(place, client, now, days=days, renew=renew)
    else:
        made = make_server_leaf(place, now, days=days, renew=renew)
    shown: dict[str, Any] = {
        "ca": str(made.ca),
        "cert": str(made.cert),
        "key": str(made.key),
        "made": made.leaf_is_new,
        "made_ca": made.ca_is_new,
        "ends": rfc3339(made.ends_at),
    }
    if as_json:
        print_json(shown)
        return FINE
    state = "made" if made.leaf_is_new else "kept: it is good for longer"
    sys.stdout.write(f"certificate  {made.cert}  ({state}, until {shown['ends']})\nkey          {made.key}\n")
    sys.stdout.write(f"authority    {made.ca}{'  (made)' if made.ca_is_new else ''}\n\n")
    sys.stdout.write(_client_words(shown) if client else _server_words(shown))
    return FINE


def _place(folder: Path | None, config: Path | None) -> Path:
    if folder is not None:
        return folder.absolute()
    from doorward.settings import load

    try:
        return Path(load(config).settings.gateway.data_dir) / "tls"
    except OperatorError as error:
        if error.code != "settings-missing" or config is not None:
            raise
        return (
            Path("doorward-data").absolute() / "tls"
        )  # where settings that are still to be written will look


def _server_words(shown: dict[str, Any]) -> str:
    return (
        "In doorward.toml:\n\n"
        "    [gateway]\n"
        f'    tls = {{ cert = "{shown["cert"]}", key = {{ file = "{shown["key"]}" }} }}\n\n'
        "Clients trust the authority by one of these:\n\n"
        f"    NODE_EXTRA_CA_CERTS={shown['ca']}   # Node: Claude Code, VS Code, most others\n"
        f"    SSL_CERT_FILE={shown['ca']}         # Python, and then only for this machine\n"
        f"    curl --cacert {shown['ca']} ...\n\n"
        "Doorward renews the certificate by itself when it has lived two thirds of its life. The authority lives\n"
        "for a year; then run this command again, and let clients trust the new one.\n"
    )


def _client_words(shown: dict[str, Any]) -> str:
    return (
        "In doorward.toml, to let this authority's clients show certificates:\n\n"
        f'    [gateway]\n    tls = {{ ..., client_ca = "{shown["ca"]}" }}\n\n'
        "A token that is good only over connections with this certificate:\n\n"
        f"    doorward token --user NAME --server NAME --certificate {shown['cert']}\n\n"
        f"    curl --cacert {shown['ca']} --cert {shown['cert']} --key {shown['key']} ...\n"
    )
