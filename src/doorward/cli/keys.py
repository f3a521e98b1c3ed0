"""``doorward keys``: Doorward's own keys and how old they are; change one with an overlap, running or not."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from doorward.adapters.admin_client import AdminClient
from doorward.base.errors import OperatorError
from doorward.cli.keys_ca import ca
from doorward.cli.output import print_json, print_table

if TYPE_CHECKING:
    from doorward.adapters.state import State

keys = App(name="keys", help="List and rotate Doorward's own keys, and make certificates for a laptop.")
keys.command(ca)

_Config = Annotated[Path | None, Parameter(name="--config", help="The settings file.")]
_Json = Annotated[bool, Parameter(name="--json", help="One JSON document.", negative="")]


@keys.command(name="list")
def list_all(*, config: _Config = None, as_json: _Json = False) -> int:
    """List the keys with what they are for and since when; never their values."""
    from doorward.app.key_room import list_keys

    data_dir = _data_dir(config)
    try:
        rows = AdminClient(data_dir).get("/api/v1/keys")
    except OperatorError as error:
        if error.code != "admin-not-running":
            raise
        with _alone(data_dir) as state:
            rows = list_keys(data_dir, state)
    if as_json:
        print_json(rows)
        return 0
    titles = ("file", "id", "state", "since", "until", "use")
    print_table(titles, [[row[title] or "" for title in titles] for row in rows])
    return 0


@keys.command(name="rotate")
def rotate(
    key: Annotated[Literal["token", "master"], Parameter(help="token or master.")],
    *,
    overlap_seconds: Annotated[
        float | None,
        Parameter(name="--overlap-seconds", help="How long the old token key still verifies; 0 ends it now."),
    ] = None,
    config: _Config = None,
    as_json: _Json = False,
) -> int:
    """Rotate a key: `token` signs access tokens, `master` seals what is stored."""
    if overlap_seconds is not None and (key != "token" or not 0 <= overlap_seconds <= 604_800):
        raise OperatorError("key-overlap", "--overlap-seconds is for token, from 0 to 604800.")
    data_dir = _data_dir(config)
    body: dict[str, Any] = {"key": key}
    if overlap_seconds is not None:
        body["overlap_seconds"] = overlap_seconds
    try:
        found = AdminClient(data_dir).post("/api/v1/keys/rotate", body)
    except OperatorError as error:
        if error.code != "admin-not-running":
            raise
        found = _rotate_alone(data_dir, key, overlap_seconds)
    if as_json:
        print_json(found)
    elif key == "token":
        sys.stdout.write(
            f"Tokens are signed with {found['kid']}; the old key verifies until {found['until']}.\n"
        )
    else:
        sys.stdout.write(
            f"Sealed with {found['name']}: {found['rewrapped']} rows, {found['broken']} do not open.\n"
        )
    return 1 if found.get("broken") else 0


def _rotate_alone(data_dir: Path, key: str, overlap_seconds: float | None) -> dict[str, Any]:
    import time

    from doorward.adapters.key_files import load_or_create_master
    from doorward.adapters.sealed_state import SealedState
    from doorward.app.key_room import OVERLAP_SECONDS, retire_token_keys, rotate_master_key, rotate_token_key

    with _alone(data_dir) as state:
        if key == "master":
            return rotate_master_key(data_dir, SealedState(state, load_or_create_master(data_dir)))
        found = rotate_token_key(
            data_dir, state, OVERLAP_SECONDS if overlap_seconds is None else overlap_seconds
        )
        retire_token_keys(data_dir, state, time.time())
        return found


def _data_dir(config: Path | None) -> Path:
    from doorward.settings import load

    return Path(load(config).settings.gateway.data_dir)


@contextmanager
def _alone(data_dir: Path) -> Iterator[State]:
    """The state, while no Doorward runs with it. Raises: OperatorError ``data-dir-busy``."""
    from doorward.adapters.state import State
    from doorward.app.data_folder import lock_data_folder

    lock = lock_data_folder(data_dir)
    try:
        state = State(data_dir)
        try:
            yield state
        finally:
            state.close()
    finally:
        os.close(lock)
