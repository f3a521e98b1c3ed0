"""Run labs by the waypoint contract: set up, exploit, fix, exploit again, roll back, exploit once more, tear down.

The result is only as good as its negative side: whatever is not clearly exploited or clearly blocked is inconclusive, and
an attack is not even tried before an ordinary call has shown that gateway and server work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from doorward.base.errors import DoorwardError, OperatorError
from doorward.range.gate import Gate
from doorward.range.index import ERAS, LABS, Cell, Era, LabRow, load_lab
from doorward.range.lab import EXPECTED, PHASES, Attempt, Lab, Outcome, Phase, conclude
from doorward.range.stage import Exchange, Stage, era_of, server_era_of, server_name
from doorward.range.upstream import LabServer
from doorward.range.wire import NoAnswerError

RECORD_SECONDS = 5.0  # how long a refusal may take to be on record
_AT_ONCE = 2  # stages that run side by side
_POLL_SECONDS = 0.02


class PhaseEvidence(msgspec.Struct, frozen=True):
    """What one phase has shown. ``upstream_before`` and ``_after`` are requests that the server had seen."""

    outcome: Outcome
    positive_control: bool
    upstream_before: int
    upstream_after: int
    sentinel_found: bool
    events: list[str]
    attempts: list[Attempt]
    why: str = ""


class Evidence(msgspec.Struct, frozen=True):
    """What a run rests on. ``upstream_before``, ``upstream_after`` and ``sentinel_found`` are those of the fixed phase;
    events and transcript are of all phases, which ``phases`` has apart."""

    positive_control: bool
    upstream_before: int
    upstream_after: int
    sentinel_found: bool
    events: list[str]
    config_diff: list[dict[str, Any]]
    ledger: str  # "verified", or what is wrong with the record of all this
    transcript: list[Exchange]
    phases: dict[str, PhaseEvidence]


class Result(msgspec.Struct, frozen=True):
    """One lab in one cell."""

    lab: str
    title: str
    era: Era  # of the client
    cell: Cell
    vulnerable: Outcome
    fixed: Outcome
    rolled_back: Outcome
    ok: bool
    evidence: Evidence


Told = Callable[[LabRow, Cell, str], None]
Before = Callable[[Stage, Phase], Awaitable[None]]


async def _nothing(stage: Stage, phase: Phase) -> None:
    """Nothing is done to the stage."""


def _untold(row: LabRow, cell: Cell, word: str) -> None:
    """Nobody wants to know how far it is."""


class _Run:
    """What has come of a lab in one cell so far."""

    def __init__(self, row: LabRow, lab: Lab, stage: Stage) -> None:
        self.row = row
        self.lab = lab
        self.stage = stage
        self.phases: dict[Phase, PhaseEvidence] = {}
        self.diff: list[dict[str, Any]] = []

    def result(self, problem: str) -> Result:
        """All phases together; ``problem`` is what is wrong with the ledger."""
        phases, fixed = self.phases, self.phases["fixed"]
        if problem:  # what nobody can rely on proves nothing
            why = f"the ledger does not verify: {problem}"
            fixed = phases["fixed"] = msgspec.structs.replace(fixed, outcome="inconclusive", why=why)
        evidence = Evidence(
            positive_control=all(one.positive_control for one in phases.values()),
            upstream_before=fixed.upstream_before,
            upstream_after=fixed.upstream_after,
            sentinel_found=fixed.sentinel_found,
            events=[event for phase in PHASES for event in phases[phase].events],
            config_diff=self.diff,
            ledger=problem or "verified",
            transcript=self.stage.transcript,
            phases={phase: phases[phase] for phase in PHASES},
        )
        return Result(
            lab=self.row.lab,
            title=self.row.title,
            era=era_of(self.stage.cell),
            cell=self.stage.cell,
            vulnerable=phases["vulnerable"].outcome,
            fixed=fixed.outcome,
            rolled_back=phases["rolled_back"].outcome,
            ok=all(phases[phase].outcome == EXPECTED[phase] for phase in PHASES),
            evidence=evidence,
        )


async def run_labs(
    rows: Sequence[LabRow] = LABS, *, told: Told = _untold, before: Before = _nothing
) -> list[Result]:
    """Run labs in all their cells. ``told`` hears of every phase; ``before`` may disturb a stage before each attack.

    Raises: OperatorError ``range-machine-...`` when this machine cannot run them.
    """
    turns = asyncio.Semaphore(_AT_ONCE)

    async def one(row: LabRow) -> list[Result]:
        async with turns:
            return await run_lab(row, told=told, before=before)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(row)) for row in rows]
    except* DoorwardError as errors:
        raise _first(errors) from None
    return [result for task in tasks for result in task.result()]


def _first(group: BaseExceptionGroup[DoorwardError]) -> DoorwardError:
    found = group.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found


async def run_lab(
    row: LabRow, cells: Sequence[Cell] = (), *, told: Told = _untold, before: Before = _nothing
) -> list[Result]:
    """Run one lab in some of its cells, all of them when left out: one gateway before a server of each era.

    Raises: OperatorError ``range-machine-...``.
    """
    lab, chosen = load_lab(row), cells or row.cells
    servers = {era: LabServer(era) for era in ERAS}
    try:
        for server in servers.values():
            await server.start()
        gate = Gate({server_name(era): server.url for era, server in servers.items()}, lab.settings)
        try:
            for cell in chosen:
                told(row, cell, "starting")
            await gate.start(lab.vulnerable)
            runs = [_Run(row, lab, Stage(cell, gate, servers[server_era_of(cell)])) for cell in chosen]
            for phase in PHASES:
                await _phase(lab, gate, runs, phase, told, before)
            await gate.end()
            problem = await gate.verify()
            return [run.result(problem) for run in runs]
        finally:
            await gate.stop()
    except OSError as error:
        raise OperatorError(
            "range-machine-resources", f"A lab cannot be set up: {error.strerror}."
        ) from error
    finally:
        for server in servers.values():
            await server.stop()


async def _phase(
    lab: Lab, gate: Gate, runs: Sequence[_Run], phase: Phase, told: Told, before: Before
) -> None:
    """Put the settings of a phase in force and attack in each cell."""
    diff, trouble = [], ""
    try:
        diff = await _set(lab, gate, phase)
    except OperatorError as error:  # it has ended, perhaps because of the attack: that shows nothing good
        trouble = error.tell
    for run in runs:
        run.stage.phase = phase
        run.diff = diff if phase == "fixed" else run.diff
        try:
            await before(run.stage, phase)
            found = _nothing_shown(run.stage, trouble) if trouble else await _attack(lab, run.stage)
        except OperatorError as error:
            found = _nothing_shown(run.stage, error.tell)
        run.phases[phase] = found
        told(run.row, run.stage.cell, f"{phase.replace('_', ' ')}: {found.outcome}")


async def _set(lab: Lab, gate: Gate, phase: Phase) -> list[dict[str, Any]]:
    """Put the settings of the phase in force; what has changed. Raises: OperatorError."""
    match phase:
        case "fixed":
            return await gate.switch(lab.fixed)
        case "rolled_back":
            return await gate.switch(lab.vulnerable)
    return []


def _nothing_shown(stage: Stage, why: str) -> PhaseEvidence:
    count = stage.upstream.requests
    return PhaseEvidence("inconclusive", False, count, count, False, [], [], why)


async def _attack(lab: Lab, stage: Stage) -> PhaseEvidence:
    """One phase: positive control, attack, and whether what was refused is on record."""
    works, session = await lab.control(stage), ""
    try:
        session = await stage.visit(stage.visitor) if works else ""
    except NoAnswerError:
        works = False
    if not works:
        return _nothing_shown(stage, "an ordinary call is not served, so nothing could be shown")
    if not await _took_its_cell(stage):
        return _nothing_shown(stage, "no record says that an ordinary call took this cell")
    mark = len(stage.records)
    before = stage.upstream.requests
    attempts = await lab.attack(stage, session)
    after = stage.upstream.requests
    records = await _records(stage, mark, {one.event for one in attempts if one.event})
    events = list(dict.fromkeys(str(record.get("event", "")) for record in records))
    outcome, why = conclude(stage.phase, attempts), ""
    missing = [one for one in attempts if one.outcome == "blocked" and one.event not in events]
    if outcome == "blocked" and missing:
        outcome, why = "inconclusive", f"a refusal is not on record: {missing[0].variant}"
    elif outcome == "blocked" and after - before > lab.upstream_allowed:
        outcome, why = "inconclusive", "requests reached the server although each attempt looks blocked"
    elif outcome != EXPECTED[stage.phase]:
        odd = [one for one in attempts if one.outcome != EXPECTED[stage.phase]]
        odd.sort(key=lambda one: one.always_blocked)
        why = f"{odd[0].variant}: {odd[0].why}" if odd else "no attempt was made"
    leaked = any(one.leaked for one in attempts)
    return PhaseEvidence(outcome, True, before, after, leaked, events, attempts, why)


async def _took_its_cell(stage: Stage) -> bool:
    """Whether the positive control is on record as a call of this cell."""
    mark = len(stage.records)
    try:
        async with asyncio.timeout(RECORD_SECONDS):
            while True:
                await stage.look()
                if any(record.get("cell") == stage.cell for record in stage.records[mark:]):
                    return True
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        return False


async def _records(stage: Stage, mark: int, wanted: set[str]) -> list[dict[str, Any]]:
    """What has come on record since a mark, once ``wanted`` is among it or does not come in time."""
    try:
        async with asyncio.timeout(RECORD_SECONDS):
            await stage.look()
            while not wanted <= {str(record.get("event")) for record in stage.records[mark:]}:
                await asyncio.sleep(_POLL_SECONDS)
                await stage.look()
    except TimeoutError:
        pass  # the caller sees what is missing
    return stage.records[mark:]
