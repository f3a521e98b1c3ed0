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
from doorward.range.index import LABS, Era, LabRow, load_lab
from doorward.range.lab import EXPECTED, PHASES, Attempt, Lab, Outcome, Phase, conclude
from doorward.range.stage import SERVER, Exchange, Stage
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
    """One lab in one era."""

    lab: str
    title: str
    era: Era
    vulnerable: Outcome
    fixed: Outcome
    rolled_back: Outcome
    ok: bool
    evidence: Evidence


Told = Callable[[LabRow, Era, str], None]
Before = Callable[[Stage, Phase], Awaitable[None]]


async def _nothing(stage: Stage, phase: Phase) -> None:
    """Nothing is done to the stage."""


def _untold(row: LabRow, era: Era, word: str) -> None:
    """Nobody wants to know how far it is."""


async def run_labs(
    rows: Sequence[LabRow] = LABS, *, told: Told = _untold, before: Before = _nothing
) -> list[Result]:
    """Run labs in all their eras. ``told`` hears of every phase; ``before`` may disturb a stage before each attack.

    Raises: OperatorError ``range-machine-...`` when this machine cannot run them.
    """
    jobs = [(row, era) for row in rows for era in row.eras]
    turns = asyncio.Semaphore(_AT_ONCE)

    async def one(row: LabRow, era: Era) -> Result:
        async with turns:
            return await run_lab(row, era, told=told, before=before)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(row, era)) for row, era in jobs]
    except* DoorwardError as errors:
        raise _first(errors) from None
    return [task.result() for task in tasks]


def _first(group: BaseExceptionGroup[DoorwardError]) -> DoorwardError:
    found = group.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found


async def run_lab(row: LabRow, era: Era, *, told: Told = _untold, before: Before = _nothing) -> Result:
    """Run one lab in one era. Raises: OperatorError ``range-machine-...``."""
    lab = load_lab(row)
    upstream = LabServer()
    try:
        await upstream.start()
        gate = Gate(SERVER, upstream.url, lab.settings)
        try:
            told(row, era, "starting")
            await gate.start(lab.vulnerable)
            stage = Stage(era, gate, upstream)
            phases: dict[Phase, PhaseEvidence] = {}
            diff: list[dict[str, Any]] = []
            for phase in PHASES:
                stage.phase = phase
                try:
                    changed = await _set(lab, stage)
                    diff = changed if phase == "fixed" else diff
                    await before(stage, phase)
                    found = await _attack(lab, stage)
                except (
                    OperatorError
                ) as error:  # it has ended, perhaps because of the attack: that shows nothing good
                    found = _nothing_shown(stage, error.tell)
                phases[phase] = found
                told(row, era, f"{phase.replace('_', ' ')}: {found.outcome}")
            await gate.end()
            return _result(row, era, phases, diff, stage, await gate.verify())
        finally:
            await gate.stop()
    except OSError as error:
        raise OperatorError(
            "range-machine-resources", f"A lab cannot be set up: {error.strerror}."
        ) from error
    finally:
        await upstream.stop()


async def _set(lab: Lab, stage: Stage) -> list[dict[str, Any]]:
    """Put the settings of the phase in force; what has changed. Raises: OperatorError."""
    match stage.phase:
        case "fixed":
            return await stage.gate.switch(lab.fixed)
        case "rolled_back":
            return await stage.gate.switch(lab.vulnerable)
    return []


def _nothing_shown(stage: Stage, why: str) -> PhaseEvidence:
    count = stage.upstream.requests
    return PhaseEvidence("inconclusive", False, count, count, False, [], [], why)


async def _attack(lab: Lab, stage: Stage) -> PhaseEvidence:
    """One phase: positive control, attack, and whether what was refused is on record."""
    works, session = await lab.control(stage), ""
    try:
        session = await stage.visit("visitor") if works else ""
    except NoAnswerError:
        works = False
    await stage.gate.new_records()  # those of the positive control
    before = stage.upstream.requests
    if not works:
        return _nothing_shown(stage, "an ordinary call is not served, so nothing could be shown")
    attempts = await lab.attack(stage, session)
    after = stage.upstream.requests
    records = await _records(stage, {one.event for one in attempts if one.event})
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


async def _records(stage: Stage, wanted: set[str]) -> list[dict[str, Any]]:
    """What has come on record, once ``wanted`` is among it or does not come in time."""
    found = await stage.gate.new_records()
    try:
        async with asyncio.timeout(RECORD_SECONDS):
            while not wanted <= {str(record.get("event")) for record in found}:
                await asyncio.sleep(_POLL_SECONDS)
                found += await stage.gate.new_records()
    except TimeoutError:
        pass  # the caller sees what is missing
    return found


def _result(
    row: LabRow,
    era: Era,
    phases: dict[Phase, PhaseEvidence],
    diff: list[dict[str, Any]],
    stage: Stage,
    problem: str,
) -> Result:
    fixed = phases["fixed"]
    if problem:  # what nobody can rely on proves nothing
        why = f"the ledger does not verify: {problem}"
        fixed = phases["fixed"] = msgspec.structs.replace(fixed, outcome="inconclusive", why=why)
    evidence = Evidence(
        positive_control=all(one.positive_control for one in phases.values()),
        upstream_before=fixed.upstream_before,
        upstream_after=fixed.upstream_after,
        sentinel_found=fixed.sentinel_found,
        events=[event for phase in PHASES for event in phases[phase].events],
        config_diff=diff,
        ledger=problem or "verified",
        transcript=stage.transcript,
        phases={phase: phases[phase] for phase in PHASES},
    )
    return Result(
        lab=row.lab,
        title=row.title,
        era=era,
        vulnerable=phases["vulnerable"].outcome,
        fixed=fixed.outcome,
        rolled_back=phases["rolled_back"].outcome,
        ok=all(phases[phase].outcome == EXPECTED[phase] for phase in PHASES),
        evidence=evidence,
    )
