"""``doorward secrets``: which secrets the settings refer to, where each is used, and whether it can be read; never a value."""

from __future__ import annotations

import base64
import hashlib
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import App, Parameter

from doorward.adapters.admin_client import AdminClient
from doorward.base.errors import OperatorError
from doorward.cli.output import print_json, print_table

secrets = App(name="secrets", help="List and check the secrets that the settings refer to.")

_NAME_CHARS = 64
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


@secrets.command(name="honeytoken")
def honeytoken(
    name: Annotated[str, Parameter(help="Where it will lie.")],
    *,
    config: _Config = None,
    as_json: _Json = False,
) -> int:
    """Print a token that opens nothing, and the settings that raise an alert when somebody presents it."""
    from doorward.settings import load

    settings = load(config).settings
    if not name.isprintable() or not 0 < len(name) <= _NAME_CHARS:
        raise OperatorError("secret-invalid", "A honeytoken's name is 1 to 64 printable characters.")
    token = bait_of(settings.gateway.public_url)
    digest = hashlib.sha256(token.encode()).hexdigest()
    if as_json:
        print_json({"name": name, "token": token, "sha256": digest})
        return 0
    sys.stdout.write(token + "\n")
    table = f'[[secrets.honeytokens]]\nname = {msgspec.json.encode(name).decode()}\nsha256 = "{digest}"\n'
    sys.stderr.write(f"Lay the token out where nobody should look, and add to the settings:\n\n{table}")
    return 0


def bait_of(public_url: str) -> str:
    """A token that looks like one of ours: everything but its signature could be true."""

    def part(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).decode().rstrip("=")

    now = int(time.time())
    header = {"typ": "at+jwt", "alg": "ES256", "kid": part(os.urandom(32))}
    claims = {
        "iss": public_url, "aud": f"{public_url}/mcp", "sub": "svc-backup", "client_id": "doorward-cli",
        "iat": now, "exp": now + 315_360_000, "jti": part(os.urandom(16)), "scope": "mcp",
    }  # fmt: skip
    return f"{part(msgspec.json.encode(header))}.{part(msgspec.json.encode(claims))}.{part(os.urandom(64))}"


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
