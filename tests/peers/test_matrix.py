"""The matrix of official clients and kinds of servers holds as it is published, feature by feature."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.peers.matrix import CLIENTS, COMMITTED, FEATURES, PAGE, SERVERS, matrix_stack, page_of, visit
from tests.stack.kit import Stack

PUBLISHED = json.loads(COMMITTED.read_text())
PAIRS = [
    pytest.param(
        client, server, marks=[pytest.mark.cage, *([pytest.mark.node] if client.startswith("Type") else [])]
    )
    for client in CLIENTS
    for server in SERVERS
]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Doorward before one server of each kind."""
    with matrix_stack() as one:
        yield one


@pytest.mark.parametrize(("client", "server"), PAIRS)
def test_a_client_can_do_what_is_published(stack: Stack, client: str, server: str) -> None:
    found = visit(stack, client, server)
    works = {feature for feature, said in found.items() if said == "works"}
    assert works >= set(PUBLISHED[client][server]), found
    assert set(found) == set(FEATURES)


def test_the_page_says_what_is_committed() -> None:
    assert PAGE.read_text() == page_of(PUBLISHED)
