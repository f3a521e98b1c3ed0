from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from doorward.controls.control import Claim, Refuse
from doorward.controls.seal_state import STATE_INVALID, SealState
from doorward.identity.principal import LOCAL


@given(st.text())
def test_every_fault_reads_alike_to_its_caller(fault: str) -> None:
    verdict = SealState().claim(LOCAL, Claim("state", fault))
    assert isinstance(verdict, Refuse)
    assert (verdict.tell, verdict.code, verdict.reason) == (STATE_INVALID, -32602, fault)


def test_other_claims_are_not_its_business() -> None:
    assert SealState().claim(LOCAL, Claim("session", "x")) is None
