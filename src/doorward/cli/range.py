"""``doorward range``: attack a Doorward of one's own with a control off, with it on, and with it off again."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from doorward.base.errors import OperatorError
from doorward.cli.output import paint, print_json, print_table
from doorward.range.index import LABS, LabRow, find

if TYPE_CHECKING:
    from collections.abc import Callable

    from doorward.range.lab import Outcome, Phase
    from doorward.range.runner import Result

range_app = App(name="range", help="Attack a Doorward of one's own, and see what each control stops.")

_Json = Annotated[bool, Parameter(name="--json", help="One JSON document.", negative="")]
_Config = Annotated[
    Path | None,
    Parameter(
        name="--config", help="The settings file, for its signing key; labs have settings of their own."
    ),
]
_TERMINATED = 143
_COLUMNS = ("lab", "cell", "title", "vulnerable", "fixed", "rolled back", "verdict")


@range_app.command(name="list")
def list_labs(*, as_json: _Json = False, config: _Config = None) -> int:  # noqa: ARG001 - every command takes it
    """List the labs, the risks that they stand for and the controls that they prove."""
    if as_json:
        print_json(LABS)
        return 0
    print_table(
        ("lab", "title", "OWASP", "catalogue", "controls", "cells"),
        [
            (
                row.lab,
                row.title,
                " ".join(row.owasp),
                " ".join(row.catalogue),
                " ".join(row.controls),
                " ".join(row.cells),
            )
            for row in LABS
        ],
    )
    return 0


@range_app.command(name="run")
def run_range(
    *labs: Annotated[str, Parameter(help="Labs such as L01; all of them when left out.")],
    as_json: _Json = False,
    output: Annotated[
        Path | None,
        Parameter(name="--output", help="Write the results here, signed, with a note beside them."),
    ] = None,
    junit: Annotated[Path | None, Parameter(name="--junit", help="Write a JUnit file as well.")] = None,
    sarif: Annotated[Path | None, Parameter(name="--sarif", help="Write a SARIF file as well.")] = None,
    config: _Config = None,
) -> int:
    """Run labs: exploited with the control off, blocked with it on, exploited once it is rolled back.

    Exit code 0: all as expected; 1: something got through, was blocked unexpectedly or is inconclusive; 2: no such
    lab; 3: this machine cannot run labs.
    """
    rows = [find(name) for name in dict.fromkeys(name.upper() for name in labs)] or list(LABS)
    data_dir = _data_dir(config) if output is not None else None  # a wrong one is told before minutes of work
    try:
        results = asyncio.run(_run(rows))
    except asyncio.CancelledError:
        return _TERMINATED
    _write_reports(results, junit, sarif)
    if output is not None and data_dir is not None:
        from doorward.range.signing import write_signed

        sys.stderr.write(f"Signed: {output}; its verifier key: {write_signed(output, results, data_dir)}\n")
    if as_json:
        print_json(results)
    else:
        _print_results(results)
    return exit_code_of(results)


async def _run(rows: list[LabRow]) -> list[Result]:
    """Run labs, and tear them down on SIGTERM as on Ctrl-C."""
    from doorward.range.runner import run_labs

    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await run_labs(rows, told=_progress())


@range_app.command(name="verify")
def verify_results(
    path: Path,
    /,
    *,
    vkey: Annotated[
        str, Parameter(name="--vkey", help="The verifier key, when it is not this installation's.")
    ] = "",
    as_json: _Json = False,
    config: _Config = None,
) -> int:
    """Check a file that `range run --output` wrote against its note; exit code 1 when it was changed."""
    from doorward.audit.checkpoint import read_vkey
    from doorward.range.signing import own_public_key, verify_signed

    words = verify_signed(path, read_vkey(vkey)[1] if vkey else own_public_key(_data_dir(config)))
    if as_json:
        print_json({"ok": True, "file": str(path), "says": words})
    else:
        sys.stdout.write(paint(f"{path} is as it was signed: {', '.join(words)}.", "green") + "\n")
    return 0


def _data_dir(config: Path | None) -> Path:
    from doorward.settings import load

    return Path(load(config).settings.gateway.data_dir)


def exit_code_of(results: list[Result]) -> int:
    """0 when every lab went as expected, else 1; nothing run proves nothing."""
    return 0 if results and all(one.ok for one in results) else 1


def _progress() -> Callable[[LabRow, str, str], None]:
    """Tell on a terminal how far it is; elsewhere keep quiet."""
    shown = sys.stderr.isatty()

    def told(row: LabRow, cell: str, word: str) -> None:
        if shown:
            sys.stderr.write(f"{row.lab} {cell:<13}  {word}\n")

    return told


def _print_results(results: list[Result]) -> None:
    from doorward.range.reports import what_failed

    print_table(
        _COLUMNS,
        [
            (
                one.lab,
                one.cell,
                one.title,
                one.vulnerable,
                one.fixed,
                one.rolled_back,
                "ok" if one.ok else "NOT OK",
            )
            for one in results
        ],
        [
            (
                "",
                "",
                "",
                *(_colour(one, phase) for phase in ("vulnerable", "fixed", "rolled_back")),
                "green" if one.ok else "red",
            )
            for one in results
        ],
    )
    bad = [one for one in results if not one.ok]
    for one in bad:
        sys.stdout.write(paint(f"{one.lab} {one.cell}: {what_failed(one)}", "red") + "\n")
    good = f"{len(results) - len(bad)} of {len(results)} as expected."
    sys.stdout.write(paint(good, "red" if bad else "green") + "\n")


def _colour(result: Result, phase: Phase) -> str:
    """Green for what was expected, yellow for what shows nothing, red for a surprise."""
    from doorward.range.lab import EXPECTED

    outcome: Outcome = getattr(result, phase)
    if outcome == "inconclusive":
        return "yellow"
    return "green" if outcome == EXPECTED[phase] else "red"


def _write_reports(results: list[Result], junit: Path | None, sarif: Path | None) -> None:
    import msgspec

    from doorward.range import reports

    documents = []
    if junit is not None:
        documents.append((junit, reports.junit(results)))
    if sarif is not None:
        documents.append((sarif, msgspec.json.encode(reports.sarif(results)).decode()))
    for path, text in documents:
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise OperatorError(
                "range-machine-report", f"{path} cannot be written: {error.strerror}."
            ) from error
