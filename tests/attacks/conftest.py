"""What the attacks of several files share: the cell in which one is tried."""

from __future__ import annotations

import pytest

from tests.attacks.kit import CELLS


@pytest.fixture(scope="module", params=CELLS)
def cell(request: pytest.FixtureRequest) -> str:
    """The eras of client and server."""
    return str(request.param)


@pytest.fixture
def era(cell: str) -> str:
    """That of the client."""
    return cell.partition("-")[0]


@pytest.fixture(scope="module")
def speaks(cell: str) -> str:
    """The only era of the server."""
    return cell.partition("-")[2]
