"""The official suite through Doorward to a server of the other era only: what the eras can both say survives the bridge.

The differences from the direct list stand in conformance_crossed.json, each with the reason why the server's era cannot express
it. What a bridge is for may not stand there.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.peers.places import HERE, ROOT
from tests.peers.suite import DIRECT, SETS, Run, committed, everything_of_the_other_era, expected
from tests.peers.test_conformance import assert_as_listed, before
from tests.stack.kit import Stack

pytestmark = pytest.mark.node
CROSSED = HERE / "conformance_crossed.json"
EXCUSED = {"server-sse-multiple-streams"}
# What a bridge is for: no scenario about it may ever be excused.
NEVER = (
    "sampling",
    "elicitation",
    "roots",
    "cancel",
    "progress",
    "subscri",
    "polling",
    "resume",
    "input-required",
)


@pytest.fixture(scope="module", params=SETS)
def crossed(request: pytest.FixtureRequest) -> Iterator[tuple[str, Stack, str]]:
    """A requirement set, and Doorward before a server that speaks the other era only."""
    with everything_of_the_other_era(request.param) as port:
        # A legacy server tells of changes in the session that made them: with one worker there is one for all requests.
        workers = 2 if request.param == "2025-11-25" else 1
        for stack, url in before({"url": f"http://127.0.0.1:{port}/mcp"}, workers=workers):
            yield request.param, stack, url


@pytest.mark.parametrize("requirements", SETS)
def test_only_what_the_other_era_cannot_say_is_excused(requirements: str) -> None:
    lost = Counter(committed(DIRECT)[requirements]) - Counter(expected(requirements, CROSSED))
    assert {row.split()[0] for row in lost if row.endswith(" SUCCESS")} <= EXCUSED
    directly, crossing = (
        sum(row.endswith(" SUCCESS") for row in rows)
        for rows in (committed(DIRECT)[requirements], expected(requirements, CROSSED))
    )
    page = " ".join((ROOT / "docs" / "reference" / "conformance.md").read_text().split())
    assert f"{crossing} of {directly}" in page, "the page says how many checks pass"
    for change in json.loads(CROSSED.read_text())[requirements]:
        assert change["why"] and change["cites"], "a reason, and the sentence of the specification behind it"
    assert not [row for row in lost if row.endswith(" SUCCESS") and any(word in row for word in NEVER)]


@pytest.mark.parametrize("requirements", SETS)
def test_what_doorward_makes_up_keeps_the_schema_of_the_clients_era(requirements: str) -> None:
    rows = [row for row in expected(requirements, CROSSED) if " wire-schema-valid " in row]
    assert rows and all(row.endswith(" SUCCESS") for row in rows)
    assert rows == [row for row in committed(DIRECT)[requirements] if " wire-schema-valid " in row]


def test_no_other_check_is_lost_on_the_way_to_the_other_era(crossed: tuple[str, Stack, str]) -> None:
    requirements, stack, url = crossed
    run = Run(url, requirements)
    assert_as_listed(run, expected(requirements, CROSSED))
    assert {row["principal"] for row in stack.rows(server="everything") if row["item"]} == {"alice"}
