"""Errors: what may be shown and what may not."""

from __future__ import annotations

import pytest

from doorward.base.errors import (
    CallerError,
    DoorwardError,
    OperatorError,
    StoreError,
    TamperError,
    UpstreamError,
)


@pytest.mark.parametrize("kind", [UpstreamError, OperatorError, StoreError, TamperError])
def test_the_detail_of_an_error_is_not_in_its_text(kind: type[DoorwardError]) -> None:
    error = kind("code", "tell", "what the peer said")
    assert (error.code, error.tell, error.detail) == ("code", "tell", "what the peer said")
    assert "peer" not in str(error)


def test_a_caller_error_has_a_status_and_a_json_rpc_code() -> None:
    error = CallerError("code", "tell", status=413, rpc_code=-32700, data={"a": 1})
    assert (error.status, error.rpc_code, error.data, error.message_id) == (413, -32700, {"a": 1}, None)
