"""The range for real: every lab against a gateway of its own, and what it says when something is not as it should be."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from doorward.cli.range import exit_code_of
from doorward.range import runner
from doorward.range.index import CELLS, LABS, find
from doorward.range.lab import Phase
from doorward.range.reports import what_failed
from doorward.range.runner import Result, run_lab
from doorward.range.stage import Stage
from tests.stack.kit import DOORWARD, descendants, processes
from tests.stack.wire import until

BUDGET_SECONDS = 60
JOBS = [(row.lab, cell) for row in LABS for cell in row.cells]


class Run:
    """One run of all labs by the command."""

    def __init__(self, folder: Path) -> None:
        self.junit, self.sarif = folder / "junit.xml", folder / "labs.sarif"
        words = ["range", "run", "--json", "--junit", str(self.junit), "--sarif", str(self.sarif)]
        self.done = subprocess.run(
            [*DOORWARD, *words],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=BUDGET_SECONDS,
            check=False,
        )
        self.rows: list[dict[str, Any]] = json.loads(self.done.stdout)

    def row(self, lab: str, cell: str) -> dict[str, Any]:
        return next(row for row in self.rows if (row["lab"], row["cell"]) == (lab, cell))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return Run(tmp_path_factory.mktemp("range"))


@pytest.mark.parametrize(("lab", "cell"), JOBS)
def test_a_lab_is_exploited_then_blocked_then_exploited_again(run, lab, cell):
    row = run.row(lab, cell)
    assert row["era"] == cell.split("-")[0]
    assert (row["vulnerable"], row["fixed"], row["rolled_back"], row["ok"]) == (
        "exploited",
        "blocked",
        "exploited",
        True,
    )
    evidence = row["evidence"]
    assert evidence["positive_control"] is True
    assert evidence["sentinel_found"] is False
    assert evidence["ledger"] == "verified"
    opened = evidence["phases"]["vulnerable"]
    assert opened["upstream_after"] > opened["upstream_before"]
    assert all(one["outcome"] == "exploited" or one["always_blocked"] for one in opened["attempts"])


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("lab", ["L01", "L22", "L23"])
def test_nothing_of_a_blocked_attack_reaches_the_server(run, lab, cell):
    evidence = run.row(lab, cell)["evidence"]
    assert evidence["upstream_after"] == evidence["upstream_before"]


@pytest.mark.parametrize("cell", CELLS)
def test_exactly_as_many_calls_as_allowed_succeed_whatever_is_rotated(run, cell):
    evidence = run.row("L09", cell)["evidence"]
    others = 1 if cell.startswith("modern") else 2  # what the second caller needs
    # At a legacy server each OAuth client of a caller has a session of its own, which Doorward opens.
    sessions = 7 if cell == "modern-legacy" else 0
    assert evidence["upstream_after"] - evidence["upstream_before"] == 6 + others + sessions
    assert len(evidence["phases"]["fixed"]["attempts"]) == 8


@pytest.mark.parametrize(("lab", "cell"), JOBS)
def test_the_fix_is_one_setting(run, lab, cell):
    (change,) = run.row(lab, cell)["evidence"]["config_diff"]
    (slug,) = find(lab).controls
    assert change == {"key": f"controls.{slug}.mode", "before": "off", "after": "enforce"}


def test_the_command_says_one_document_and_ends_well(run):
    assert run.done.returncode == 0
    assert [(row["lab"], row["cell"]) for row in run.rows] == JOBS
    assert ET.parse(run.junit).getroot().get("failures") == "0"
    assert json.loads(run.sarif.read_text())["runs"][0]["results"] == []


def test_every_refusal_is_on_record(run):
    for row in run.rows:
        fixed = row["evidence"]["phases"]["fixed"]
        events = [one["event"] for one in fixed["attempts"]]
        assert all(len(event) == 26 for event in events)
        assert set(events) <= set(fixed["events"]) <= set(row["evidence"]["events"])


def test_the_transcript_holds_both_sides_and_no_token(run):
    transcript = run.row("L01", "modern-modern")["evidence"]["transcript"]
    assert {"request", "response", "phase", "variant"} <= set(transcript[0])
    assert any("access_token=[token" in one["request"]["line"] for one in transcript)
    assert "eyJ" not in run.done.stdout  # how every JSON Web Token begins


# -- when something is wrong ----------------------------------------------------------------------------------------


def disturbed(lab: str, cell: Any, at: Phase, deed: Any) -> Result:
    """Run one lab in one cell and do something to its stage before the attack of one phase."""
    import asyncio

    async def before(stage: Stage, phase: Phase) -> None:
        if phase == at:
            await deed(stage)

    (result,) = asyncio.run(run_lab(find(lab), (cell,), before=before))
    return result


@pytest.mark.parametrize("row", LABS, ids=lambda row: row.lab)
def test_a_stopped_server_proves_nothing(row):
    async def stop(stage: Stage) -> None:
        await stage.upstream.stop()

    result = disturbed(row.lab, row.cells[0], "fixed", stop)
    assert (result.vulnerable, result.fixed, result.ok) == ("exploited", "inconclusive", False)
    assert result.evidence.positive_control is False
    assert exit_code_of([result]) == 1
    assert "ordinary call" in what_failed(result)


def test_a_killed_gateway_proves_nothing():
    async def kill(stage: Stage) -> None:
        process = stage.gate._process
        assert process is not None
        process.kill()
        await process.wait()

    result = disturbed("L01", "legacy-legacy", "fixed", kill)
    assert (result.fixed, result.rolled_back) == ("inconclusive", "inconclusive")
    assert exit_code_of([result]) == 1


def test_a_fix_that_does_not_hold_is_told():
    async def undo(stage: Stage) -> None:
        await stage.gate.switch({"controls.check-head": {"mode": "off"}})

    result = disturbed("L22", "modern-modern", "fixed", undo)
    assert (result.fixed, result.ok) == ("exploited", False)
    assert "fixed is exploited" in what_failed(result)


def test_a_call_that_took_another_cell_proves_nothing(monkeypatch):
    monkeypatch.setattr(runner, "RECORD_SECONDS", 0.2)

    async def elsewhere(stage: Stage) -> None:
        stage.cell = "legacy-modern"

    result = disturbed("L22", "modern-modern", "fixed", elsewhere)
    assert result.fixed == "inconclusive"
    assert "took this cell" in result.evidence.phases["fixed"].why


def test_a_refusal_that_is_not_on_record_proves_nothing(monkeypatch):
    monkeypatch.setattr(runner, "RECORD_SECONDS", 0.2)

    async def forget(stage: Stage) -> None:
        honest = stage.look

        async def forgetful() -> list[Any]:
            found = await honest()
            stage.records[:] = [one for one in stage.records if one.get("verdict") != "refuse"]
            return found

        stage.look = forgetful  # type: ignore[method-assign]

    result = disturbed("L23", "modern-modern", "fixed", forget)
    assert result.fixed == "inconclusive"
    assert "not on record" in what_failed(result)


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_weakened_gateway_outlives_its_lab(tmp_path, sign):
    temporary = tempfile.TemporaryDirectory(prefix="doorward-range-")  # what is killed cannot clear up
    process = subprocess.Popen(
        [*DOORWARD, "range", "run", "L01"],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": temporary.name},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:

        def workers() -> list[int]:
            table = processes()
            return [
                pid for pid in descendants(process.pid) if "doorward.app.worker" in table.get(pid, (0, ""))[1]
            ]

        until(workers, "a gateway of the lab")
        below = descendants(process.pid)
        process.send_signal(sign)
        process.wait(30)
    finally:
        process.kill()
        process.wait()
    until(lambda: not set(below) & set(processes()), "the end of the lab's gateways", 30)
    if sign is not signal.SIGKILL:
        assert os.listdir(temporary.name) == []
    temporary.cleanup()


def test_records_of_a_lab_cannot_pass_for_real_ones():
    logs: set[str] = set()

    async def look(stage: Stage) -> None:
        await stage.ordinary_call(stage.visitor)
        logs.update(record["log"] for record in await stage.gate.new_records())

    assert disturbed("L01", "modern-modern", "fixed", look).ok
    assert logs
    assert all(log.startswith("lab/") for log in logs)
