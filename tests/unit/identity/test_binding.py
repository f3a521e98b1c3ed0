from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.identity.binding import FREE, Confirmation, read_confirmation, written

DIGEST = "A" * 43


def test_a_token_without_cnf_is_a_bearer_token() -> None:
    assert read_confirmation({}) == FREE
    assert written(FREE) == {}


@pytest.mark.parametrize("cnf", [{"jkt": DIGEST}, {"x5t#S256": DIGEST}, {"jkt": DIGEST, "x5t#S256": DIGEST}])
def test_what_is_read_is_what_was_written(cnf: dict[str, str]) -> None:
    found = read_confirmation({"cnf": cnf})
    assert found is not None and found != FREE
    assert written(found) == cnf


@pytest.mark.parametrize(
    "cnf",
    [
        None, {}, [], "x", True, {"jkt": ""}, {"jkt": None}, {"jkt": "x"}, {"jkt": [DIGEST]}, {"jkt": DIGEST + "="},
        {"jkt": "A" * 42 + "B"}, {"jkt": DIGEST + "\n"}, {"jkt": "é" * 43}, {"jwk": {}}, {"kid": "k"},
        {"jkt": DIGEST, "kid": "k"}, {"x5t": DIGEST}, {"JKT": DIGEST},
    ],
)  # fmt: skip
def test_a_binding_that_is_not_understood_is_no_binding_at_all(cnf: Any) -> None:
    assert read_confirmation({"cnf": cnf}) is None


@given(st.dictionaries(st.text(max_size=10), st.text(max_size=50), min_size=1, max_size=3))
def test_nothing_else_ever_makes_a_token_free(cnf: dict[str, str]) -> None:
    found = read_confirmation({"cnf": cnf})
    assert found is None or isinstance(found, Confirmation)
    assert found != FREE
