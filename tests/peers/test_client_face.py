"""The official suite's client scenarios, with Doorward as the client: what it sends to servers keeps the specification."""

from __future__ import annotations

import pytest

from tests.peers.suite import CLIENT, CLIENT_SCENARIOS, ClientRun, committed

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
