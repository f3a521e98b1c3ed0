"""Security events of issuers: only theirs, only about their own subjects, only what is an event (RFC 8417, SSF, CAEP, RISC)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.identity.foreign_kit import ISSUER, NOW, RESOURCE, Hand

from doorward.identity.security_events import (
    OLD_SECONDS,
    WITHDRAWING,
    EventRefusal,
    SecurityEvent,
    issuer_named,
    read_event,
)
from doorward.identity.trust import TrustedIssuer

HAND = Hand()
AUDIENCE = "https://gateway.test/oauth/events"
REVOKED = "https://schemas.openid.net/secevent/caep/event-type/session-revoked"
VERIFICATION = "https://schemas.openid.net/secevent/ssf/event-type/verification"
ALICE = {"format": "iss_sub", "iss": ISSUER, "sub": "alice"}


def event(header: dict[str, Any] | None = None, hand: Hand = HAND, **changes: Any) -> str:
    members = {"typ": "secevent+jwt", "alg": hand.algorithm, "kid": hand.kid} | (header or {})
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "iat": NOW,
        "jti": "e-1",
        "sub_id": ALICE,
        "events": {REVOKED: {}},
    } | changes
    return hand.sign(
        {name: value for name, value in members.items() if value is not ...},
        msgspec.json.encode({name: value for name, value in claims.items() if value is not ...}),
    )


def read(token: str, **trust: Any) -> SecurityEvent | EventRefusal:
    return read_event(token, TrustedIssuer(ISSUER, **trust), HAND.jwks()["keys"], AUDIENCE, float(NOW))


@pytest.mark.parametrize("kind", sorted(WITHDRAWING))
def test_each_kind_withdraws_its_subject(kind: str) -> None:
    found = read(event(events={kind: {"event_timestamp": NOW}}))
    assert isinstance(found, SecurityEvent)
    assert (found.subjects, found.token_id) == (("alice",), "e-1")
    assert issuer_named(event()) == ISSUER


def test_subjects_stand_where_senders_put_them() -> None:
    older = event(
        sub_id=..., events={REVOKED: {"subject": {"subject_type": "iss-sub", "iss": ISSUER, "sub": "bob"}}}
    )
    complex_ = event(sub_id={"format": "complex", "user": ALICE, "session": {"format": "opaque", "id": "s"}})
    for token, name in ((older, "bob"), (complex_, "alice")):
        found = read(token)
        assert isinstance(found, SecurityEvent) and found.subjects == (name,)
    check = read(event(sub_id={"format": "opaque", "id": "stream"}, events={VERIFICATION: {"state": "x"}}))
    assert isinstance(check, SecurityEvent) and check.subjects == ()
    assert isinstance(read(event(aud=[AUDIENCE, "https://other.test"])), SecurityEvent)


REFUSED: dict[str, tuple[str, str]] = {
    "no token": ("x", "invalid_request"),
    "half a token": ("a.b.c", "invalid_request"),
    "an access token": (HAND.token(), "invalid_request"),
    "typ of an access token": (event({"typ": "at+jwt"}), "invalid_request"),
    "no typ": (event({"typ": ...}), "invalid_request"),
    "algorithm none": (event({"alg": "none"}), "invalid_key"),
    "shared secret": (event({"alg": "HS256"}), "invalid_key"),
    "no key": (event({"kid": ...}), "invalid_key"),
    "unknown key": (event({"kid": "x"}), "invalid_key"),
    "brings its key": (event({"jwk": HAND.public()}), "invalid_key"),
    "forged": (event(hand=Hand()), "authentication_failed"),
    "another issuer": (event(iss="https://other.test"), "invalid_issuer"),
    "another audience": (event(aud=RESOURCE), "invalid_audience"),
    "no audience": (event(aud=...), "invalid_audience"),
    "expires": (event(exp=NOW + 60), "invalid_request"),
    "of the future": (event(iat=NOW + 60), "invalid_request"),
    "of long ago": (event(iat=int(NOW - OLD_SECONDS - 1)), "invalid_request"),
    "no time": (event(iat=...), "invalid_request"),
    "no name": (event(jti=...), "invalid_request"),
    "no events": (event(events={}), "invalid_request"),
    "events as a list": (event(events=[REVOKED]), "invalid_request"),
    "too many events": (event(events={f"x{number}": {} for number in range(9)}), "invalid_request"),
    "unknown kind": (event(events={"https://x.test/y": {}}), "invalid_request"),
    "no subject": (event(sub_id=...), "invalid_request"),
    "somebody else's subject": (event(sub_id=ALICE | {"iss": "https://other.test"}), "invalid_request"),
    "subject by mail": (event(sub_id={"format": "email", "email": "a@b.c"}), "invalid_request"),
    "empty subject": (event(sub_id=ALICE | {"sub": ""}), "invalid_request"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_event_for_us_withdraws_nobody(name: str) -> None:
    token, error = REFUSED[name]
    found = read(token)
    assert isinstance(found, EventRefusal), found
    assert found.error == error
    assert token not in found.tell


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=9),
    lambda inner: st.dictionaries(st.text(max_size=6), inner, max_size=3),
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["iss", "aud", "iat", "jti", "sub_id", "events", "exp"]), JSON))
def test_no_claims_crash_the_reader(changes: dict[str, Any]) -> None:
    found = read(event(**changes))
    assert isinstance(found, EventRefusal) or set(found.subjects) <= {"alice"}
