from __future__ import annotations

import pytest

from doorward.controls.keep_secrets import KeepSecrets


@pytest.mark.parametrize(
    ("failing", "keys", "core", "state", "word"),
    [
        ({}, 1, 0, "ok", "sealed"),
        ({"servers.a.credentials.value": "secret-missing"}, 1, 0, "failing", "servers.a.credentials.value"),
        ({}, 2, 0, "failing", "old master key"),
        ({}, 0, 0, "unknown", "not read"),
        ({}, 1, 1, "failing", "core dumps"),
        ({}, 1, -1, "failing", "core dumps"),
    ],
)
def test_it_holds_only_when_all_of_it_does(
    failing: dict[str, str], keys: int, core: int, state: str, word: str
) -> None:
    found, why = KeepSecrets(failing, keys, core).probe()
    assert found == state
    assert word in why
