"""Fixtures of all tests."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """Run async tests on the loop that serves."""
    return "asyncio", {"use_uvloop": True}
