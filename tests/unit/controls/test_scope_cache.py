from __future__ import annotations

from typing import Any

import pytest

from doorward.controls.control import Call, Head, Mode
from doorward.controls.scope_cache import ScopeCache
from doorward.identity.principal import LOCAL
from doorward.protocol.envelope import request


@pytest.mark.parametrize(
    ("mode", "scope", "notes"), [("enforce", "private", 0), ("report", "public", 1), ("off", "public", 0)]
)
def test_its_mode_decides_what_becomes_of_a_public_result(mode: Mode, scope: str, notes: int) -> None:
    head = Head(verb="POST", path="/", query="", fields={}, repeated=frozenset())
    call = Call(
        head=head, principal=LOCAL, server="s", era="modern", message=request(1, "tools/list", {}), event="e"
    )
    result: dict[str, Any] = {"tools": [], "ttlMs": 5, "cacheScope": "public"}
    ScopeCache.narrowing(mode)(call, result)
    assert result == {"tools": [], "ttlMs": 5, "cacheScope": scope}
    assert len(call.notes) == notes
