"""The sentences that say why a token does not fit: each names the value that differs, none shows the token."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.identity.foreign_kit import HOUR, ISSUER, NOW, RESOURCE, Hand

from doorward.base.clock import FakeClock
from doorward.identity.bearer import TokenRefusal
from doorward.identity.foreign_judge import ForeignJudge, KnownKeys
from doorward.identity.token_advice import audience_advice, read_unverified, scope_advice, token_advice
from doorward.identity.trust import TrustedIssuer

HAND = Hand()
LOCAL = "http://127.0.0.1:8808/time/mcp"


@pytest.mark.parametrize(
    ("audience", "wanted", "words"),
    [
        (RESOURCE, RESOURCE, None),
        ([RESOURCE, "other"], RESOURCE, None),
        (RESOURCE + "/", RESOURCE, "trailing slash"),
        (RESOURCE.upper(), RESOURCE, "capital letters"),
        ("http://127.0.0.1:8809/time/mcp", LOCAL, "port 8809, gateway.public_url has 8808"),
        ("http://127.0.0.1/time/mcp", LOCAL, "port 80, gateway.public_url has 8808"),
        ("http://localhost:8808/time/mcp", LOCAL, "says localhost where this server says 127.0.0.1"),
        (
            "http://gateway.test/time/mcp",
            "https://gateway.test/time/mcp",
            "begins with http, gateway.public_url with https",
        ),
        ("http://gateway.test:443/time/mcp", "https://gateway.test/time/mcp", "begins with http,"),
        ("https://gateway.test/tickets/mcp", RESOURCE, "another endpoint of the same host"),
        ("https://gateway.test", RESOURCE, "another endpoint of the same host"),
        ("cli", RESOURCE, "ID token"),
        ("api://x", RESOURCE, f"this server wants {RESOURCE}"),
        (None, RESOURCE, "no audience"),
        ([], RESOURCE, "no audience"),
        ("http://[::1", RESOURCE, "this server wants"),
    ],
)
def test_an_audience_that_does_not_fit_is_told_by_what_differs(
    audience: Any, wanted: str, words: str | None
) -> None:
    found = audience_advice(audience, wanted, "cli")
    assert found == "" if words is None else words in found


CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], str]] = {
    "audience": ({}, {"aud": RESOURCE + "/"}, {}, "trailing slash"),
    "algorithm": ({}, {}, {"algorithms": ("RS256",)}, "signed with ES256; allowed are RS256"),
    "expired": ({}, {"iat": NOW - HOUR, "exp": NOW - 60}, {}, "ran out 60 seconds ago"),
    "future": ({}, {"nbf": NOW + 600}, {}, "compare the clocks"),
    "lifetime": (
        {},
        {"exp": NOW + 10 * HOUR},
        {"max_lifetime_seconds": HOUR},
        "max_lifetime_seconds is 3600",
    ),
    "key": ({"kid": "other"}, {}, {}, "has no key other for ES256"),
    "client": ({}, {}, {"clients": frozenset({"x"})}, "client cli is not among"),
    "tenant": ({}, {"tid": "t"}, {"tenants": frozenset({"x"})}, "tenant t is not among"),
    "no key": ({"kid": ...}, {}, {}, "names no key"),
    "two audiences": ({}, {"aud": [RESOURCE, "b"]}, {}, "shared_audience = true"),
    "no client": ({}, {"client_id": ...}, {}, "names no client (client_id or azp)"),
    "type": ({"typ": "JWT"}, {}, {}, "typ JWT, allowed is at+jwt"),
    "bound": ({}, {"cnf": {"jkt": "x"}}, {}, "bound to something"),
    "roles": ({}, {"roles": {"a": 1}}, {}, "scopes or roles are not few short texts"),
    "step-up": ({}, {}, {"acr_values": ("gold",)}, "stronger or more recent sign-in"),
}


@pytest.mark.parametrize("name", CASES)
def test_every_refusal_of_the_judge_has_its_sentence(name: str) -> None:
    header, claims, trust_changes, words = CASES[name]
    clock, trust = FakeClock(float(NOW)), TrustedIssuer(ISSUER, **trust_changes)
    keys = {ISSUER: KnownKeys(HAND.jwks(), float("inf"))}
    judge = ForeignJudge([trust], keys, clock, ask=lambda topic, payload, then: then("unknown"))
    token = HAND.token(header, **claims)
    found = judge.judge(f"Bearer {token}", RESOURCE)
    if hasattr(found, "begin"):
        found.begin(lambda: None)
        found = judge.judge(f"Bearer {token}", RESOURCE)
    assert isinstance(found, TokenRefusal)
    read = read_unverified(token)
    assert not isinstance(read, str)
    said = token_advice(found, *read, trust, RESOURCE, clock.now())
    assert words in said
    assert token not in said and token.split(".")[2] not in said


def test_a_text_that_is_no_token_is_told_apart() -> None:
    assert "opaque" in str(read_unverified("abc"))
    assert "copied" in str(read_unverified("a.b.c"))
    assert "copied" in str(read_unverified(HAND.token()[:-1] + "="))
    assert "lack mcp" in scope_advice(("other",), TrustedIssuer(ISSUER))
    assert "ask for mcp" in scope_advice((), TrustedIssuer(ISSUER))


@settings(deadline=None)
@given(
    st.text(max_size=60) | st.lists(st.text(max_size=30), max_size=3) | st.none() | st.integers(),
    st.text(max_size=40),
)
def test_advice_never_crashes_and_is_empty_only_where_the_audience_fits(audience: Any, wanted: str) -> None:
    found = audience_advice(audience, wanted, "client")
    names = audience if isinstance(audience, list) else [audience]
    assert (found == "") is (wanted in names)
