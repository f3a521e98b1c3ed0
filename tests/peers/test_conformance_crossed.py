"""The official suite through Doorward to a server of the other era only: what the eras can both say survives the bridge.

The differences from the direct list stand in conformance_crossed.json, each with the reason why the server's era cannot express
it. What a bridge is for may not stand there.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.peers.places import HERE
from tests.peers.suite import DIRECT, SETS, Run, committed, everything_over_http, expected
from tests.peers.test_conformance import assert_as_listed, before
from tests.stack.kit import Stack

pytestmark = pytest.mark.node
CROSSED = HERE / "conformance_crossed.json"
OTHER = {"2025-11-25": "modern", "2026-07-28": "legacy"}
NEVER_LOST = (
    "sampling",
    "elicitation",
    "roots",
    "cancel",
    "progress",
    "subscri",
    "polling",
    "input-required",
)


@pytest.fixture(scope="module", params=SETS)
def crossed(request: pytest.FixtureRequest) -> Iterator[tuple[str, Stack, str]]:
    """A requirement set, and Doorward before a server that speaks the other era only."""
    with everything_over_http(OTHER[request.param]) as port:
        for stack, url in before({"url": f"http://127.0.0.1:{port}/mcp"}, workers=2):
            yield request.param, stack, url


@pytest.mark.parametrize("requirements", SETS)
def test_what_a_bridge_is_for_is_never_excused(requirements: str) -> None:
    lost = Counter(committed(DIRECT)[requirements]) - Counter(expected(requirements, CROSSED))
    passed = [row for row in lost if row.endswith(" SUCCESS")]
    assert not [row for row in passed if any(word in row for word in NEVER_LOST)]
    assert all(change["why"] for change in json.loads(CROSSED.read_text())[requirements])


def test_no_other_check_is_lost_on_the_way_to_the_other_era(crossed: tuple[str, Stack, str]) -> None:
    requirements, stack, url = crossed
    run = Run(url, requirements)
    assert_as_listed(run, expected(requirements, CROSSED))
    assert run.status == 0, run.said
    assert {row["principal"] for row in stack.rows(server="everything") if row["item"]} == {"alice"}
