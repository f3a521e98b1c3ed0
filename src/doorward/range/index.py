"""Which labs there are, where each comes from and which controls it proves; cheap to import, nothing is run here."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Literal

import msgspec

from doorward.base.errors import OperatorError

if TYPE_CHECKING:
    from doorward.range.lab import Lab

Era = Literal["modern", "legacy"]
ERAS: tuple[Era, ...] = ("modern", "legacy")
Cell = Literal[
    "modern-modern", "modern-legacy", "legacy-legacy", "legacy-modern"
]  # eras of client and server
CELLS: tuple[Cell, ...] = ("modern-modern", "modern-legacy", "legacy-legacy", "legacy-modern")


class LabRow(msgspec.Struct, frozen=True):
    """One lab as it is listed."""

    lab: str  # "L01"
    title: str
    origin: str  # where the attack is known from
    owasp: tuple[str, ...]  # OWASP MCP Top 10 (2025)
    catalogue: tuple[str, ...]  # ids of the catalogue of controls
    references: tuple[str, ...]  # the rules that the attack breaks
    controls: tuple[str, ...]  # slugs of the controls that block it
    eras: tuple[Era, ...] = ERAS  # of the attacker's client
    cells: tuple[Cell, ...] = CELLS  # those that have what is attacked


LABS: tuple[LabRow, ...] = (
    LabRow(
        lab="L01",
        title="Open server: records read without a token",
        origin="Sherpa Base Camp",
        owasp=("MCP07",),
        catalogue=("M2",),
        references=("MCP basic/authorization", "RFC 6750 section 3", "RFC 9728 section 5.1"),
        controls=("check-token",),
    ),
    LabRow(
        lab="L09",
        title="Limit bypass: rotated headers and sessions",
        origin="Sherpa Camp 2, waypoint 1.3",
        owasp=("MCP05", "MCP07"),
        catalogue=("S4.4",),
        references=("RFC 6585 section 4", "RFC 9110 section 10.2.3"),
        controls=("limit-rate",),
    ),
    LabRow(
        lab="L17",
        title="Confused deputy: a link gives a stranger's client access in a user's name",
        origin="MCP security best practices, confused deputy",
        owasp=("MCP02", "MCP07"),
        catalogue=("M4", "S7.2"),
        references=("MCP 2026-07-28 security_best_practices", "RFC 9700 section 4.11", "RFC 7591"),
        controls=("ask-consent",),
    ),
    LabRow(
        lab="L19",
        title="Session hijack: another caller's session is used, heard and poisoned",
        origin="MCP security best practices, session hijacking",
        owasp=("MCP07", "MCP10"),
        catalogue=("M3", "S2.2"),
        references=("MCP 2025-11-25 basic/security_best_practices", "MCP 2025-11-25 basic/transports"),
        controls=("bind-session",),
        eras=("legacy",),
        cells=("legacy-legacy", "legacy-modern"),
    ),
    LabRow(
        lab="L21",
        title="State tampering: a call goes on for another caller, as another call, or twice",
        origin="MCP 2026-07-28 basic/patterns/mrtr, security considerations",
        owasp=("MCP07",),
        catalogue=("M3", "N2.2"),
        references=("MCP 2026-07-28 basic/patterns/mrtr, SEP-2322",),
        controls=("seal-state",),
        eras=("modern",),
        cells=("modern-modern", "modern-legacy"),
    ),
    LabRow(
        lab="L22",
        title="Header and body split: one call announced, another one run",
        origin="MCP 2026-07-28 basic/transports",
        owasp=("MCP05", "MCP07"),
        catalogue=("S3.2",),
        references=("MCP basic/transports/streamable-http, SEP-2243", "RFC 9110 section 5.3"),
        controls=("check-head",),
    ),
    LabRow(
        lab="L23",
        title="DNS rebinding: a foreign web page calls a local server",
        origin="MCP basic/transports, security warning",
        owasp=("MCP07",),
        catalogue=("S2.4",),
        references=("MCP basic/transports", "RFC 6454 section 7", "RFC 9110 section 7.2"),
        controls=("check-origin",),
    ),
    LabRow(
        lab="L34",
        title="Cache leak: a shared cache hands one caller's view to another",
        origin="MCP 2026-07-28 server/utilities/caching",
        owasp=("MCP10",),
        catalogue=("S2.2",),
        references=("MCP 2026-07-28 server/utilities/caching", "RFC 9111 section 3.5"),
        controls=("scope-cache",),
        eras=("modern",),
        cells=("modern-modern",),  # results of the 2025 era carry no hints for caches
    ),
)


def labs_of(slug: str) -> list[str]:
    """The labs that prove a control, such as ["L01"] for "check-token"."""
    return [row.lab for row in LABS if slug in row.controls]


def find(name: str) -> LabRow:
    """The lab of a name, whatever its case. Raises: OperatorError ``range-unknown-lab``, which names the known ones."""
    for row in LABS:
        if row.lab == name.upper():
            return row
    known = ", ".join(row.lab for row in LABS)
    raise OperatorError("range-unknown-lab", f"There is no lab {name!r}; known: {known}.")


def load_lab(row: LabRow) -> Lab:
    """The lab itself, from its file in ``range/labs``."""
    made: Lab = import_module(f"doorward.range.labs.{row.lab.lower()}").LAB
    return made
