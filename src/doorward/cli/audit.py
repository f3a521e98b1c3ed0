"""``doorward audit``: watch, ask and prove the ledger, with or without a running Doorward."""

from __future__ import annotations

import datetime
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from cyclopts import App, Parameter

from doorward.base.clock import SystemClock, rfc3339
from doorward.base.errors import OperatorError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from doorward.adapters.ledger_read import LedgerReader

audit = App(name="audit", help="Watch, ask and prove what is on record.")

_Config = Annotated[Path | None, Parameter(name="--config", help="The settings file.")]
_Json = Annotated[bool, Parameter(name="--json", help="One JSON document.", negative="")]
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_POLL_SECONDS = 0.5
_COLUMNS = ("time", "event", "kind", "principal", "server", "method", "item", "verdict", "control", "outcome")


def _data_dir(config: Path | None) -> Path:
    from doorward.settings import load

    return Path(load(config).settings.gateway.data_dir)


def _reader(config: Path | None) -> LedgerReader:
    from doorward.adapters.ledger_read import LedgerReader

    return LedgerReader(_data_dir(config))


def moment_of(text: str, now: float) -> str:
    """A time as records write it, from RFC 3339 or a span back from ``now`` such as 15m, 2h or 7d.

    Raises:
        OperatorError: ``audit-time``.
    """
    if not text:
        return ""
    number, unit = text[:-1], text[-1]
    if unit in _UNITS and number.isascii() and number.isdigit() and len(number) < 7:
        return rfc3339(now - int(number) * _UNITS[unit])
    try:
        moment = datetime.datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=datetime.UTC)
        return rfc3339(moment.timestamp())
    except (ValueError, OverflowError) as error:
        raise OperatorError(
            "audit-time", "A time is RFC 3339, such as 2026-11-24T09:00:00Z, or a span back: 15m, 2h, 7d."
        ) from error


def _print_json(value: object) -> None:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")


def _cells(row: dict[str, Any]) -> list[str]:
    return ["-" if row.get(name) in (None, "") else str(row[name]) for name in _COLUMNS]


def _print_rows(rows: list[dict[str, Any]]) -> None:
    if not rows:
        sys.stderr.write("Nothing on record fits.\n")
    elif sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(*_COLUMNS, box=None, pad_edge=False)
        for row in rows:
            style = "red" if row.get("verdict") == "refuse" else ""
            table.add_row(*(Text(cell, style=style) for cell in _cells(row)))
        Console().print(table)
    else:
        for row in rows:
            sys.stdout.write("\t".join(_cells(row)) + "\n")


@audit.command
def tail(
    *,
    lines: Annotated[int, Parameter(name=["--lines", "-n"], help="How many of the last calls.")] = 20,
    follow: Annotated[
        bool, Parameter(name=["--follow", "-f"], help="Go on as records come.", negative="")
    ] = False,
    config: _Config = None,
) -> int:
    """Show the last calls and events, and with --follow every record as it is written."""
    from doorward.adapters.ledger_read import Question

    reader = _reader(config)
    seen = reader.ends()
    if lines > 0:
        rows = list(reader.rows(Question(limit=lines)))
        _print_rows(rows[::-1])
    sys.stdout.flush()
    try:
        while follow:
            time.sleep(_POLL_SECONDS)
            for record in reader.newer(seen):
                sys.stdout.write("\t".join(_cells(record)) + "\n")
            sys.stdout.flush()
    except KeyboardInterrupt:
        pass
    return 0


@audit.command
def query(
    *,
    principal: str = "",
    tool: str = "",
    server: str = "",
    control: str = "",
    verdict: str = "",
    kind: str = "",
    since: Annotated[str, Parameter(help="RFC 3339, or a span back such as 15m, 2h or 7d.")] = "",
    until: Annotated[str, Parameter(help="As --since; not included.")] = "",
    event: str = "",
    limit: Annotated[int, Parameter(help="At most so many, newest first; 0 is all.")] = 100,
    raw: Annotated[
        bool, Parameter(help="Records as written instead of one row a call.", negative="")
    ] = False,
    as_json: _Json = False,
    config: _Config = None,
) -> int:
    """List what is on record, newest first, one row for each call."""
    from doorward.adapters.ledger_read import Question

    now = SystemClock().now()
    question = Question(
        principal=principal,
        tool=tool,
        server=server,
        control=control,
        verdict=verdict,
        kind=kind,
        since=moment_of(since, now),
        until=moment_of(until, now),
        event=event,
        limit=max(0, limit),
    )
    reader = _reader(config)
    rows = list(reader.records(question) if raw else reader.rows(question))
    if as_json:
        _print_json(rows)
    else:
        _print_rows(rows)
    return 0


@audit.command
def show(event: str, /, *, as_json: _Json = False, config: _Config = None) -> int:
    """Show everything that is on record about one event."""
    from doorward.adapters.ledger_read import Question

    reader = _reader(config)
    rows = list(reader.rows(Question(event=event, limit=1)))
    if not rows:
        sys.stderr.write("No such event is on record.\n")
        return 1
    row = rows[0]
    records = list(reader.records(Question(event=event, limit=8)))
    if as_json:
        _print_json({**row, "records": records[::-1]})
        return 0
    _print_lines((name, value) for name, value in row.items() if value not in (None, "", []))
    sys.stdout.write(f"\n{_sentence(row)}\n")
    return 0


def _print_lines(pairs: Iterable[tuple[str, object]]) -> None:
    for name, value in pairs:
        sys.stdout.write(f"{name:>18}  {value}\n")


def _sentence(row: dict[str, Any]) -> str:
    who, what = row["principal"] or "an unknown caller", row["item"] or row["method"] or "a request"
    if row["verdict"] == "refuse":
        return f"{who} asked for {what}; {row['control'] or 'a control'} refused it: {row['reason'] or 'no reason given'}."
    if row["kind"] != "call":
        return f"{row['kind']}: {row['method']} {row['reason']}".rstrip()
    end = {"unknown": "how it ended is not on record", None: "it is under way"}.get(
        row["outcome"], f"it ended {row['outcome']}"
    )
    return f"{who} was allowed {what}, and {end}."


@audit.command
def verify(
    *,
    checkpoint: Annotated[
        tuple[Path, ...], Parameter(help="A checkpoint that was kept elsewhere; may be repeated.")
    ] = (),
    vkey: Annotated[
        str, Parameter(help="The ledger's public key, name+id+key, instead of the installation's.")
    ] = "",
    data_dir: Annotated[Path | None, Parameter(help="A data folder, instead of the settings'.")] = None,
    as_json: _Json = False,
    config: _Config = None,
) -> int:
    """Prove every byte of the ledger, or say where it does not hold."""
    from doorward.adapters.ledger_read import find_public_key, verify_folder
    from doorward.audit.checkpoint import read_vkey
    from doorward.base.errors import TamperError

    folder = data_dir if data_dir is not None else _data_dir(config)
    try:
        notes = [path.read_bytes() for path in checkpoint]
        public_key = read_vkey(vkey)[1] if vkey else find_public_key(folder)
    except OSError as error:
        raise OperatorError("audit-checkpoint", "The checkpoint file cannot be read.", str(error)) from error
    except TamperError as error:
        raise OperatorError(error.code, error.tell) from error
    report = verify_folder(folder, public_key, notes)
    if as_json:
        _print_json(report.as_json())
        return 0 if report.ok else 1
    for log in report.logs:
        sys.stdout.write(f"{log['origin']}: {log['entries']} entries, root {log['root']}\n")
    for problem in report.problems:
        where = f" from entry {problem.seq}" if problem.seq is not None else ""
        sys.stdout.write(f"PROBLEM {problem.log or 'ledger'}{where}, {problem.file or '-'}: {problem.what}\n")
    verdict = "holds" if report.ok else "does NOT hold"
    sys.stdout.write(f"The ledger {verdict}: {report.entries} entries, {report.completeness}.\n")
    return 0 if report.ok else 1
