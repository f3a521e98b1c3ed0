"""``doorward controls``: what protects, in which order and mode; with ``--catalogue`` what of the catalogue is met."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from doorward.base.errors import OperatorError
from doorward.cli.output import paint, print_json, print_table
from doorward.range.index import labs_of

if TYPE_CHECKING:
    from doorward.controls.control import Control, Posture
    from doorward.settings import Loaded

HOOKS = ("head", "request", "listing", "reply", "notice", "claim", "settled")
_LIVE_KEYS = (
    "mode",
    "state",
    "why",
    "since",
    "last_event",
    "refusals",
)  # what a running Doorward knows better than the file


def controls(
    *,
    catalogue: Annotated[
        bool, Parameter(name="--catalogue", help="One row for each of the 87 catalogue ids.", negative="")
    ] = False,
    as_json: Annotated[bool, Parameter(name="--json", help="One JSON document.", negative="")] = False,
    config: Annotated[Path | None, Parameter(name="--config", help="The settings file.")] = None,
) -> int:
    """List what protects, or what of the catalogue is covered."""
    if catalogue:
        return _print_catalogue(as_json=as_json)
    rows = _rows(config)
    if as_json:
        print_json(rows)
        return 0
    titles = ("slug", "kind", "mode", "state", "covers", "hooks")
    print_table(titles, [[_cell(row[title]) for title in titles] for row in rows])
    for row in rows:
        if row["mode"] != "enforce":
            sys.stdout.write(paint(f"weakened: {row['slug']} is {row['mode']}", "red") + "\n")
    return 0


def _cell(value: object) -> object:
    return " ".join(value) if isinstance(value, list) else value


def _print_catalogue(*, as_json: bool) -> int:
    from doorward.controls.catalogue import CATALOGUE, coverage
    from doorward.controls.order import ORDER, POSTURES

    rows = coverage((*ORDER, *POSTURES))
    if as_json:
        print_json(rows)
    else:
        lines = [(row.id, row.status, " ".join(row.by), CATALOGUE[row.id]) for row in rows]
        print_table(("id", "status", "by", "title"), lines)
    return 0


def _rows(config: Path | None) -> list[dict[str, Any]]:
    from doorward.controls.order import ORDER, POSTURES

    loaded = _loaded(config)
    rows = [_row(kind, place, "control", loaded) for place, kind in enumerate(ORDER, start=1)]
    rows += [
        _row(kind, place, "posture", loaded) for place, kind in enumerate(POSTURES, start=len(ORDER) + 1)
    ]
    live = _live(loaded)
    for row in rows:
        known = live.get(row["slug"], {})
        row.update({key: known[key] for key in _LIVE_KEYS if key in known})
    return rows


def _loaded(config: Path | None) -> Loaded | None:
    """The settings; None when no file was named and none is there, so that the list works anywhere."""
    from doorward.settings import load

    try:
        return load(config)
    except OperatorError as error:
        if config is None and error.code == "settings-missing":
            return None
        raise


def _row(kind: type[Control | Posture], place: int, sort: str, loaded: Loaded | None) -> dict[str, Any]:
    from doorward.controls.control import Control

    chosen = loaded.settings.controls.get(kind.slug) if loaded else None
    hooks = [
        hook for hook in HOOKS if sort == "control" and getattr(kind, hook) is not getattr(Control, hook)
    ]
    return {
        "slug": kind.slug,
        "kind": sort,
        "covers": list(kind.covers),
        "partly": list(kind.partly),
        "hooks": hooks,
        "order": place,
        "mode": chosen.mode if chosen else "enforce",
        "source": "file" if chosen else "default",
        "since": None,
        "floor": kind.floor,
        "state": "unknown",
        "labs": labs_of(kind.slug),
        "last_event": None,
    }


def _live(loaded: Loaded | None) -> dict[str, dict[str, Any]]:
    """What a Doorward that runs with these settings says of its controls; nothing when none runs."""
    from doorward.adapters.admin_client import AdminClient

    if loaded is None:
        return {}
    try:
        found = AdminClient(Path(loaded.settings.gateway.data_dir)).get("/api/v1/controls")
    except OperatorError:
        return {}
    if not isinstance(found, list):
        return {}
    return {str(row.get("slug")): row for row in found if isinstance(row, dict)}
