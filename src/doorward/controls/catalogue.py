"""The catalogue: 87 controls that an MCP deployment is asked for, and which of them this one has.

Ids M1 to S12.6 follow the bullets of the MCP security best practices for the 2025-11-25 revision (78), N ids what their
edition for the 2026-07-28 revision adds or changes (9). Titles are in our own words.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Protocol

import msgspec

CATALOGUE: dict[str, str] = {
    "M1": "Accept only tokens that were issued for this server",
    "M2": "Authorise every inbound request",
    "M3": "Never let a session stand for authentication",
    "M4": "Ask the user's consent for each dynamically registered client behind a static client id",
    "S1.1": "Audit who may do what, and prove it",
    "S1.2": "Use established identity providers",
    "S1.3": "Check the audience of every token; never pass tokens on",
    "S1.4": "Issue, rotate, expire and revoke tokens so that none is used twice or too long",
    "S1.5": "Keep secrets in a secret store",
    "S1.6": "Encrypt tokens at rest and on the way",
    "S1.7": "Rotate credentials and watch who reads them",
    "S2.1": "Make session ids from secure randomness",
    "S2.2": "Bind sessions to the user they were opened for",
    "S2.3": "Expire, rotate and end sessions",
    "S2.4": "Use TLS for all communication",
    "S2.5": "Use TLS 1.3 with certificates that are looked after",
    "S2.6": "Pin certificates of critical connections",
    "S2.7": "Rotate certificates and check that they hold",
    "S3.1": "Find and filter malicious instructions",
    "S3.2": "Check all input strictly",
    "S3.3": "Mark where foreign content begins and ends",
    "S3.4": "Notice when a tool's definition changes",
    "S3.5": "Watch how tools behave while they run",
    "S3.6": "Let people approve tool changes",
    "S4.1": "Give servers the least rights",
    "S4.2": "Decide by role, down to the single item",
    "S4.3": "Review rights and watch for escalation",
    "S4.4": "Limit what a caller can use up",
    "S4.5": "Run tools in isolation",
    "S4.6": "Grant administrative rights only for a time",
    "S5.1": "Moderate content",
    "S5.2": "Find behaviour that is out of the ordinary",
    "S5.3": "Record logins, calls and events so that nobody can change the record",
    "S5.4": "Raise alerts in real time",
    "S5.5": "Feed the SIEM",
    "S5.6": "Test the deployment by attacking it",
    "S6.1": "Scan dependencies and models for known holes",
    "S6.2": "Know where components come from",
    "S6.3": "Verify signatures before anything is deployed",
    "S6.4": "Scan code, dependencies and secrets",
    "S6.5": "Build the checks into delivery pipelines",
    "S6.6": "Verify what is deployed",
    "S7.1": "Use PKCE for every authorisation",
    "S7.2": "Show every registered client to the user before consent",
    "S7.3": "Compare redirect addresses and client ids exactly",
    "S7.4": "Keep static client ids from bypassing consent",
    "S7.5": "Ask consent for access to third parties",
    "S7.6": "Notice stolen codes and unexpected API access",
    "S8.1": "Contain threats automatically",
    "S8.2": "Roll back to a known good state",
    "S8.3": "Keep trails that an investigation can use",
    "S8.4": "Escalate incidents in a known way",
    "S8.5": "Work with the incident teams of the organisation",
    "S8.6": "Rehearse incidents",
    "S9.1": "Meet the rules of the sector",
    "S9.2": "Classify data and keep it private",
    "S9.3": "Document for auditors",
    "S9.4": "Review every change formally",
    "S9.5": "Version settings and approve their changes",
    "S9.6": "Assess gaps regularly",
    "S10.1": "Verify users, devices and connections all the time",
    "S10.2": "Separate components on the network",
    "S10.3": "Let access depend on risk and context",
    "S10.4": "Protect the running application from inside",
    "S10.5": "Watch performance for signs of attack",
    "S10.6": "Adapt policies to the level of threat",
    "S11.1": "Report posture to Microsoft Defender for Cloud",
    "S11.2": "Work with Microsoft Sentinel",
    "S11.3": "Work with Microsoft Purview",
    "S11.4": "Sign in with Microsoft Entra ID",
    "S11.5": "Elevate through Privileged Identity Management",
    "S11.6": "Respond to Entra ID Protection",
    "S12.1": "Follow the specifications",
    "S12.2": "Use threat intelligence",
    "S12.3": "Take part in disclosure",
    "S12.4": "Find new attacks by learning",
    "S12.5": "Predict where attacks can go",
    "S12.6": "Update policies automatically, within limits",
    "N-M4": "Ask consent for each client behind a static client id, however it was registered",
    "N2.1": "Give out opaque handles",
    "N2.2": "Bind handles to their principal",
    "N2.3": "Expire and revoke handles",
    "N2.4": "Authorise each request; a handle proves nothing",
    "N2.5": "Use HTTPS for remote transport in production",
    "N2.6": "Isolate local servers and give them credentials by environment only",
    "N2.7": "Use modern TLS with certificates that rotate",
    "N7.2": "Prefer client metadata documents and pre-registration to dynamic registration",
}

Status = Literal["covered", "partial", "missing"]


class Claimant(Protocol):
    """A control or a posture, as class or instance."""

    @property
    def slug(self) -> str:
        """Its stable name."""

    @property
    def covers(self) -> tuple[str, ...]:
        """Catalogue ids that it fulfils."""

    @property
    def partly(self) -> tuple[str, ...]:
        """Catalogue ids to which it contributes."""


class Row(msgspec.Struct, frozen=True):
    """One id of the catalogue, how far it is met and by which slugs."""

    id: str
    status: Status
    by: list[str]


def coverage(claimants: Iterable[Claimant]) -> list[Row]:
    """Return one row for each id, in the catalogue's order; ``by`` is in the order of ``claimants``.

    An id is covered when one claims it whole, partial when some contribute, else missing. Claims outside of the
    catalogue are left out here; `unknown_claims` finds them.
    """
    claims = list(claimants)
    rows = []
    for entry in CATALOGUE:
        by = [claim.slug for claim in claims if entry in claim.covers or entry in claim.partly]
        whole = any(entry in claim.covers for claim in claims)
        rows.append(Row(id=entry, status="covered" if whole else "partial" if by else "missing", by=by))
    return rows


def unknown_claims(claimants: Iterable[Claimant]) -> list[tuple[str, str]]:
    """Return (slug, id) of every claim on an id that the catalogue does not have."""
    return [(c.slug, entry) for c in claimants for entry in (*c.covers, *c.partly) if entry not in CATALOGUE]
