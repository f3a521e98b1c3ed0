"""The official suite's client scenarios, with Doorward as the client: what it sends to servers keeps the specification.

Before Doorward stands an ordinary client of the official SDK, in the era of the suite's server or in the other one.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.peers.suite import CLIENT, CLIENT_CROSSED, CLIENT_SCENARIOS, ClientRun, committed

pytestmark = pytest.mark.node


# What no other test sees as well; the rest also passes and takes its time.
TOLD_APART = {
    "sse-retry",
    "request-metadata",
    "http-standard-headers",
    "http-custom-headers",
    "http-invalid-tool-headers",
}


@pytest.mark.parametrize(
    ("version", "scenario"),
    [
        pytest.param(version, name, marks=[] if name in TOLD_APART else [pytest.mark.full])
        for version, name in CLIENT_SCENARIOS
    ],
)
def test_doorward_passes_as_a_client(version: str, scenario: str) -> None:
    run = ClientRun(scenario, version)
    assert run.rows == committed(CLIENT)[f"{version} {scenario}"], run.said
    assert not [row for row in run.rows if row.endswith((" FAILURE", " WARNING"))]


# One of each kind runs each time: what is asked on the way, what is resumed, what is mirrored, what must be left out.
TOLD_APART_CROSSED = {
    ("2025-11-25", "elicitation-sep1034-client-defaults"),
    ("2025-11-25", "sse-retry"),
    ("2026-07-28", "sep-2322-client-request-state"),
    ("2026-07-28", "http-custom-headers"),
    ("2026-07-28", "http-invalid-tool-headers"),
}


def changes() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads(CLIENT_CROSSED.read_text())
    return found


def expected_crossed(name: str) -> list[str]:
    """What a client of the server's own era gets, but for the listed changes."""
    change = changes().get(name, {"without": [], "with": []})
    rows = committed(CLIENT)[name]
    assert set(change["without"]) <= set(rows), (
        f"{CLIENT_CROSSED.name} takes rows away that are not in the list"
    )
    return sorted([row for row in rows if row not in change["without"]] + change["with"])


@pytest.mark.parametrize(
    ("version", "scenario"),
    [
        pytest.param(version, name, marks=[] if (version, name) in TOLD_APART_CROSSED else [pytest.mark.full])
        for version, name in CLIENT_SCENARIOS
    ],
)
def test_doorward_passes_with_a_client_of_the_other_era(version: str, scenario: str) -> None:
    run = ClientRun(scenario, version, "crossed")
    assert run.rows == expected_crossed(f"{version} {scenario}"), run.said


def test_only_the_first_handshake_is_excused() -> None:
    for name, change in changes().items():
        assert change["why"] and change["cites"], name
        assert name.split()[1] in ("request-metadata", "http-standard-headers"), name
