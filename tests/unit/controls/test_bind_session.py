from __future__ import annotations

from doorward.controls.bind_session import BindSession, missing_session
from doorward.controls.control import Claim, Refuse
from doorward.identity.principal import LOCAL


def test_a_claim_to_a_session_is_refused_as_one_to_a_session_that_does_not_exist() -> None:
    verdict = BindSession().claim(LOCAL, Claim("session", "the session of another principal: a|b|c|d"))
    assert isinstance(verdict, Refuse)
    unknown = missing_session("no such session")
    assert (verdict.status, verdict.code, verdict.tell, verdict.help) == (
        404,
        unknown.code,
        unknown.tell,
        unknown.help,
    )
    assert verdict.reason != unknown.reason, "the record tells them apart"
    assert "a|b" not in verdict.tell + verdict.help


def test_other_claims_are_not_its_business() -> None:
    assert BindSession().claim(LOCAL, Claim("state", "x")) is None
