"""Tokens of other issuers: each profile by its own marks, keys that come and go, opaque tokens, budgets and step-up."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.identity.foreign_kit import HOUR, ISSUER, NOW, RESOURCE, Hand, claims_at

from doorward.base.clock import FakeClock
from doorward.identity.bearer import REMEMBERED_COUNT, Pending, TokenRefusal
from doorward.identity.budget import ADDRESSES_COUNT, FAILURES_AT_ONCE, CheckBudget
from doorward.identity.foreign_judge import (
    DOWN_SECONDS,
    UNKNOWN_SECONDS,
    WAITING_COUNT,
    ForeignJudge,
    KnownKeys,
    Lease,
    TokenMemory,
)
from doorward.identity.principal import Principal
from doorward.identity.trust import Introspected, TrustedIssuer, read_foreign

HAND = Hand()
FAR = float(NOW + 100 * HOUR)


class Asked:
    """Stands where the supervisor answers; a test says what, and when."""

    def __init__(self) -> None:
        self.questions: list[tuple[str, dict[str, Any], Callable[[Any], None]]] = []

    def __call__(self, topic: str, payload: dict[str, Any], then: Callable[[Any], None]) -> None:
        self.questions.append((topic, payload, then))

    def answer(self, found: Any) -> None:
        self.questions.pop(0)[2](found)


class Desk:
    """One worker's judge over several snapshots."""

    def __init__(self, *hands: Hand, until: float = FAR, revoked: tuple[str, ...] = (), **trust: Any) -> None:
        self.clock = FakeClock(float(NOW))
        self.memory = TokenMemory(self.clock)
        self.asked = Asked()
        self.trusts = [TrustedIssuer(ISSUER, **trust)]
        self.renew(*(hands or (HAND,)), until=until, revoked=revoked)

    def renew(self, *hands: Hand, until: float = FAR, revoked: tuple[str, ...] = ()) -> None:
        keys = {ISSUER: KnownKeys({"keys": [hand.public() for hand in hands]}, until)} if hands else {}
        self.judge = ForeignJudge(self.trusts, keys, self.clock, revoked, memory=self.memory, ask=self.asked)

    def ask(self, token: str, resource: str = RESOURCE, address: str = "192.0.2.1") -> Any:
        return self.judge.judge(f"Bearer {token}", resource, address)

    def good(self, token: str, resource: str = RESOURCE) -> Principal:
        found = self.ask(token, resource)
        found = found.principal if isinstance(found, Lease) else found
        assert isinstance(found, Principal), found
        return found

    def bad(self, token: str, resource: str = RESOURCE, kind: str = "invalid") -> TokenRefusal:
        found = self.ask(token, resource)
        assert isinstance(found, TokenRefusal), found
        assert found.kind == kind, found
        return found


def test_a_good_token_becomes_a_principal_of_its_issuer() -> None:
    desk = Desk()
    found = desk.good(HAND.token())
    assert (found.issuer, found.subject, found.client, found.tenant) == (ISSUER, "alice", "cli", "default")
    assert (found.roles, found.scopes, found.token_id) == (("user",), ("mcp", "other"), "t-1")
    assert found.expires_at == NOW + HOUR
    assert desk.good(HAND.token(jti=...)).token_id.startswith("sha256:")
    assert "|https://idp.test|alice|cli" in found.key  # no account of another issuer has this key


@pytest.mark.parametrize("algorithm", ["ES256", "ES384", "RS256", "PS256", "EdDSA"])
def test_every_allowed_algorithm_counts_and_only_where_it_is_allowed(algorithm: str) -> None:
    hand = Hand(algorithm)
    assert Desk(hand).good(hand.token()).subject == "alice"
    others = tuple(one for one in ("ES256", "RS256") if one != algorithm)
    assert Desk(hand, algorithms=others).bad(hand.token()).reason == "algorithm not allowed"


def test_audiences_are_exact_and_shared_only_where_that_is_said() -> None:
    both = HAND.token(aud=[RESOURCE, "account"])
    assert Desk().bad(both).reason == "aud, sub or the client is not one short text"
    assert Desk(shared_audience=True).good(both).subject == "alice"
    assert Desk(shared_audience=True).bad(HAND.token(aud=["account"])).reason == "issued for another resource"
    other = RESOURCE.replace("time", "tickets")
    assert Desk().bad(HAND.token(), other).reason == "issued for another resource"
    named = Desk(audience="api://doorward", audiences={other: "api://tickets"})
    assert named.good(HAND.token(aud="api://doorward")).subject == "alice"
    assert named.bad(HAND.token(aud="api://doorward"), other).reason == "issued for another resource"
    assert named.good(HAND.token(aud="api://tickets"), other).subject == "alice"
    assert named.bad(HAND.token()).reason == "issued for another resource"


def test_clients_and_tenants_are_those_that_are_listed() -> None:
    desk = Desk(clients=frozenset({"cli"}), tenants=frozenset({"t"}))
    assert desk.good(HAND.token(tid="t")).tenant == "t"
    assert desk.bad(HAND.token(tid="u")).reason == "tenant not allowed"
    assert desk.bad(HAND.token()).reason == "tenant not allowed"
    assert desk.bad(HAND.token(tid="t", client_id="x")).reason == "client not allowed"
    assert desk.bad(HAND.token(tid="t", azp="x")).reason == "aud, sub or the client is not one short text"
    assert desk.good(HAND.token(tid="t", azp="cli")).client == "cli"


def test_the_scope_that_gives_leave_is_the_one_of_the_settings() -> None:
    assert Desk().good(HAND.token(scope="other")).scopes == ("other",)
    own = Desk(scope="mcp.use")
    assert own.good(HAND.token(scope="mcp.use")).scopes == ("mcp", "mcp.use")
    assert "mcp" not in own.good(HAND.token(scope="mcp")).scopes
    assert Desk(scope="").good(HAND.token(scope=...)).scopes == ("mcp",)


def test_roles_lie_where_the_settings_say() -> None:
    inner = {
        "realm_access": {"roles": ["admin", "user"]},
        "roles": ["other"],
        "https://a.example/roles": "solo",
    }
    assert Desk(roles_claim="realm_access.roles").good(HAND.token(**inner)).roles == ("admin", "user")
    assert Desk(roles_claim="https://a.example/roles").good(HAND.token(**inner)).roles == ("solo",)
    assert Desk(roles_claim="no.where").good(HAND.token(**inner)).roles == ()
    assert Desk(roles_claim="realm_access.roles", roles=frozenset({"user"})).good(
        HAND.token(**inner)
    ).roles == ("user",)
    assert Desk(roles_claim="realm_access").bad(HAND.token(**inner)).kind == "invalid"


ENTRA = claims_at(NOW) | {
    "client_id": ..., "jti": ..., "scope": ..., "azp": "app-1", "scp": "mcp", "tid": "t-1", "uti": "u-1", "oid": "o", "ver": "2.0",
}  # fmt: skip
KEYCLOAK = claims_at(NOW) | {
    "client_id": ..., "azp": "web", "typ": "Bearer", "aud": [RESOURCE, "account"], "roles": ..., "realm_access": {"roles": ["user"]},
}  # fmt: skip
AUTH0 = claims_at(NOW) | {
    "client_id": ...,
    "azp": "web",
    "aud": [RESOURCE, "https://a.auth0.com/userinfo"],
    "org_id": "org_1",
}
OKTA = claims_at(NOW) | {
    "client_id": ...,
    "cid": "0oa1",
    "scope": ...,
    "scp": ["mcp"],
    "jti": "AT.abc",
    "uid": "00u",
    "ver": 1,
}
PROFILES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "entra": ({"typ": "JWT"}, ENTRA, "app-1"),
    "keycloak": ({"typ": "JWT"}, KEYCLOAK, "web"),
    "auth0": ({"typ": "at+jwt"}, AUTH0, "web"),
    "okta": ({"typ": ...}, OKTA, "0oa1"),
}


def of(name: str, **more: Any) -> dict[str, Any]:
    """A trust as settings complete it."""
    from doorward.identity.trust import PROFILES as KNOWN

    profile = KNOWN[name]  # type: ignore[index]
    return {"profile": name, "shared_audience": profile.shared_audience, "roles_claim": profile.roles, **more}


@pytest.mark.parametrize("name", PROFILES)
def test_an_access_token_of_each_provider_counts_under_its_profile_only(name: str) -> None:
    header, claims, client = PROFILES[name]
    token = HAND.token(header, **claims)
    found = Desk(**of(name)).good(token)
    assert (found.client, found.roles, "mcp" in found.scopes) == (client, ("user",), True)
    if header["typ"] != "at+jwt":
        assert Desk().bad(token).reason == "not an access token"


IDENTITY_TOKENS = {
    "entra": ENTRA | {"scp": ..., "roles": ..., "aud": RESOURCE},
    "entra with roles": ENTRA | {"scp": ..., "nonce": "n"},
    "keycloak": KEYCLOAK | {"typ": "ID"},
    "keycloak refresh": KEYCLOAK | {"typ": "Refresh"},
    "keycloak without": KEYCLOAK | {"typ": ...},
    "auth0": AUTH0 | {"at_hash": "x"},
    "okta": OKTA | {"jti": "ID.abc"},
    "okta without": OKTA | {"jti": ...},
}


@pytest.mark.parametrize("name", IDENTITY_TOKENS)
def test_an_identity_token_of_the_same_provider_is_no_access_token(name: str) -> None:
    profile = name.partition(" ")[0]
    token = HAND.token(PROFILES[profile][0], **IDENTITY_TOKENS[name])
    assert Desk(**of(profile)).bad(token).reason == "not an access token"


def test_an_application_of_entra_has_its_leave_as_a_role() -> None:
    app = ENTRA | {"scp": ..., "idtyp": "app", "roles": ["mcp"], "azp": ..., "appid": "app-9", "ver": "1.0"}
    found = Desk(**of("entra")).good(HAND.token({"typ": "JWT"}, **app))
    assert (found.client, found.scopes, found.tenant, found.token_id) == ("app-9", ("mcp",), "t-1", "u-1")


# -- keys that come and go ----------------------------------------------------------------------------------------


def test_a_new_key_is_asked_for_once_and_counts_when_it_has_come() -> None:
    desk, fresh = Desk(), Hand(kid="k2")
    token = fresh.token()
    called: list[int] = []
    for number in range(3):
        found = desk.ask(token)
        assert isinstance(found, Pending)
        found.begin(lambda number=number: called.append(number))  # type: ignore[misc]
    assert [(topic, payload) for topic, payload, _ in desk.asked.questions] == [
        ("issuer-key", {"issuer": ISSUER, "kid": "k2"})
    ]
    assert called == []
    desk.renew(HAND, fresh)  # the snapshot comes before the answer
    desk.asked.answer("known")
    assert called == [0, 1, 2]
    assert desk.good(token).subject == desk.good(HAND.token()).subject


def test_a_key_that_nobody_knows_is_not_asked_for_again_soon() -> None:
    desk, stranger = Desk(), Hand(kid="no")
    pending = desk.ask(stranger.token())
    pending.begin(lambda: None)
    desk.asked.answer("unknown")
    assert desk.bad(stranger.token()).reason == "signed with an unknown key"
    assert desk.bad(stranger.token(jti="another")).reason == "signed with an unknown key"
    assert desk.asked.questions == []
    desk.clock.advance(UNKNOWN_SECONDS + 1)
    assert isinstance(desk.ask(stranger.token(jti="another")), Pending)
    assert isinstance(desk.ask(stranger.token()), Pending)


@pytest.mark.parametrize("answer", [None, "down", 7])
def test_an_issuer_that_cannot_be_asked_closes_the_door_and_says_so(answer: Any) -> None:
    desk, fresh = Desk(), Hand(kid="k2")
    desk.ask(fresh.token()).begin(lambda: None)
    desk.asked.answer(answer)
    assert desk.bad(fresh.token(), kind="unavailable").status == 503
    assert desk.good(HAND.token()).subject == "alice"  # known keys go on
    desk.clock.advance(DOWN_SECONDS + 1)
    assert isinstance(desk.ask(fresh.token()), Pending)


def test_keys_that_are_too_old_close_the_door_even_for_tokens_that_are_known() -> None:
    desk = Desk(until=NOW + 100.0)
    token = HAND.token()
    found = desk.ask(token)
    assert isinstance(found, Lease)
    assert found.until == NOW + 100
    desk.clock.advance(100)
    assert desk.bad(token, kind="unavailable").status == 503
    desk.renew(HAND, until=FAR)
    assert desk.good(token).subject == "alice"
    assert isinstance(Desk(until=NOW - 1.0).ask(token), Pending)


def test_a_withdrawn_key_takes_its_tokens_along_and_a_late_one_brings_them_back() -> None:
    fresh = Hand(kid="k2")
    desk = Desk(HAND, fresh)
    token = HAND.token()
    assert desk.good(token).subject == "alice"
    desk.renew(fresh)
    assert isinstance(desk.ask(token), Pending)  # not good from memory
    forged = Hand(kid="k2").token()
    assert desk.bad(forged).reason == "signature does not hold"
    desk.renew(HAND, fresh)
    assert desk.good(token).subject == "alice"


def test_the_same_keys_again_keep_what_is_known() -> None:
    desk = Desk()
    desk.good(HAND.token())
    checks = desk.judge.signature_checks
    desk.renew(HAND, revoked=("t-9",))
    token = HAND.token()
    desk.good(token)
    before = desk.judge.signature_checks
    desk.renew(HAND)
    desk.good(token)
    assert desk.judge.signature_checks == before >= checks
    desk.renew(HAND, revoked=("t-1",))
    assert desk.bad(token).reason == "revoked"


def test_a_withdrawn_subject_needs_a_token_from_after_the_withdrawal() -> None:
    desk = Desk()
    keys = {ISSUER: KnownKeys(HAND.jwks(), FAR)}
    desk.clock.advance(60)
    moment = desk.clock.now()
    gone = {(ISSUER, "alice"): moment}
    desk.judge = ForeignJudge(desk.trusts, keys, desk.clock, withdrawn=gone, memory=desk.memory)
    assert desk.bad(HAND.token()).reason == "withdrawn with its subject"
    assert desk.good(HAND.token(sub="bob")).subject == "bob"
    assert desk.good(HAND.token(now=moment)).subject == "alice"
    desk.judge = ForeignJudge(
        desk.trusts, keys, desk.clock, withdrawn={("https://other.test", "alice"): moment}, memory=desk.memory
    )
    assert desk.good(HAND.token()).subject == "alice"


def test_an_answer_to_a_question_of_an_earlier_trust_does_not_count() -> None:
    desk = Desk(introspection=Introspected())
    found = desk.ask("opaque")
    found.begin(lambda: None)
    desk.trusts = [TrustedIssuer(ISSUER, introspection=Introspected(), clients=frozenset({"other"}))]
    desk.renew(HAND)
    desk.asked.answer(msgspec.json.encode(SAID))
    assert isinstance(desk.ask("opaque"), Pending)
    settle(desk, "opaque", SAID)
    assert desk.bad("opaque").reason == "client not allowed"


def test_a_changed_trust_forgets_what_the_old_one_took() -> None:
    desk = Desk()
    token = HAND.token()
    desk.good(token)
    desk.trusts = [TrustedIssuer(ISSUER, clients=frozenset({"other"}))]
    desk.renew(HAND)
    assert desk.bad(token).reason == "client not allowed"


# -- opaque tokens ------------------------------------------------------------------------------------------------

SAID = {
    "active": True,
    "sub": "bob",
    "client_id": "cli",
    "aud": RESOURCE,
    "scope": "mcp",
    "exp": NOW + HOUR,
    "iat": NOW,
}


def settle(desk: Desk, token: str, said: Any) -> None:
    found = desk.ask(token)
    assert isinstance(found, Pending), found
    called: list[bool] = []
    found.begin(lambda: called.append(True))
    desk.asked.answer(msgspec.json.encode(said) if isinstance(said, dict) else said)
    assert called == [True]


def test_an_opaque_token_is_asked_about_once_and_the_answer_counts_for_a_while() -> None:
    desk = Desk(introspection=Introspected(30.0))
    settle(desk, "opaque", SAID)
    found = desk.ask("opaque")
    assert isinstance(found, Lease)
    assert (found.principal.subject, found.until) == ("bob", NOW + 30)
    assert found.principal.token_id.startswith("sha256:")
    assert desk.bad("opaque", RESOURCE.replace("time", "tickets")).reason == "issued for another resource"
    desk.clock.advance(31)
    assert isinstance(desk.ask("opaque"), Pending)
    assert desk.judge.signature_checks == 0


NOT_GOOD: dict[str, Any] = {
    "not active": {"active": False},
    "active as a text": SAID | {"active": "true"},
    "active 1": SAID | {"active": 1},
    "another issuer": SAID | {"iss": "https://other.test"},
    "no audience": {name: value for name, value in SAID.items() if name != "aud"},
    "a refresh token": SAID | {"token_type": "refresh_token"},
    "bound to a key": SAID | {"cnf": {"jkt": "x"}},
    "no expiry": {name: value for name, value in SAID.items() if name != "exp"},
    "nobody": {name: value for name, value in SAID.items() if name not in ("sub", "client_id")},
    "an empty subject": SAID | {"sub": ""},
    "lives for ever": SAID | {"exp": NOW + 10**9},
    "twice active": b'{"active":false,"active":true}',
    "expired": SAID | {"exp": NOW - 1, "iat": NOW - HOUR},
}


@pytest.mark.parametrize("name", NOT_GOOD)
def test_an_answer_that_does_not_vouch_for_the_token_refuses_it(name: str) -> None:
    desk = Desk(introspection=Introspected())
    settle(desk, "opaque", NOT_GOOD[name])
    found = desk.bad("opaque", kind="unavailable" if name == "twice active" else "invalid")
    assert "opaque" not in found.reason


@pytest.mark.parametrize("answer", [None, b"", b"[]", b"<html>", "text", 5, {}])
def test_no_answer_about_a_token_is_no_leave(answer: Any) -> None:
    desk = Desk(introspection=Introspected())
    found = desk.ask("opaque")
    found.begin(lambda: None)
    desk.asked.answer(answer)
    assert desk.bad("opaque", kind="unavailable").status == 503
    desk.clock.advance(DOWN_SECONDS + 0.1)
    settle(desk, "opaque", SAID)
    assert desk.good("opaque").subject == "bob"


def test_where_an_answer_names_no_subject_the_client_acts_for_itself() -> None:
    desk = Desk(introspection=Introspected())
    settle(desk, "opaque", {name: value for name, value in SAID.items() if name != "sub"})
    assert desk.good("opaque").subject == "cli"


def test_without_introspection_an_opaque_token_is_refused_at_once() -> None:
    assert Desk().bad("opaque").reason == "not a signed JWT"


def test_questions_under_way_are_bounded() -> None:
    desk = Desk(introspection=Introspected())
    for number in range(WAITING_COUNT):
        desk.judge.judge(f"Bearer o{number}", RESOURCE, f"198.51.100.{number}").begin(lambda: None)  # type: ignore[union-attr]
    assert desk.bad("one-more", kind="unavailable").status == 503


# -- budgets ------------------------------------------------------------------------------------------------------


def test_a_flood_of_garbage_from_one_address_costs_no_more_signatures_than_its_budget() -> None:
    desk = Desk()
    known = HAND.token()
    desk.good(known)
    forger = Hand(kid="k1")
    before, busy = desk.judge.signature_checks, 0
    for number in range(2_000):
        found = desk.ask(forger.token(jti=f"x-{number}"))
        assert isinstance(found, TokenRefusal)
        busy += found.kind == "busy"
        assert (found.status, found.error) in ((401, "invalid_token"), (429, None))
    assert desk.judge.signature_checks - before == FAILURES_AT_ONCE
    assert busy == 2_000 - FAILURES_AT_ONCE
    assert desk.good(known).subject == "alice"  # known tokens of the same address go on
    elsewhere = desk.judge.judge(f"Bearer {HAND.token(sub='carol')}", RESOURCE, "192.0.2.2")
    assert isinstance(elsewhere, Principal)
    assert isinstance(desk.ask(HAND.token(sub="dave")), TokenRefusal)
    desk.clock.advance(10)
    assert desk.good(HAND.token(sub="dave")).subject == "dave"


def test_a_repeated_bad_token_costs_one_signature_and_one_failure() -> None:
    desk = Desk()
    token = Hand(kid="k1").token()
    for _ in range(500):
        desk.bad(token)
    assert desk.judge.signature_checks == 1
    assert desk.good(HAND.token()).subject == "alice"


def test_a_crowd_of_good_tokens_from_one_address_is_not_slowed_down() -> None:
    desk = Desk()
    for number in range(5 * FAILURES_AT_ONCE):
        assert desk.good(HAND.token(sub=f"u{number}")).subject == f"u{number}"


def test_a_flood_of_opaque_tokens_asks_no_more_than_its_budget() -> None:
    desk = Desk(introspection=Introspected())
    asked = 0
    for number in range(300):
        found = desk.ask(f"garbage-{number}")
        if isinstance(found, Pending):
            asked += 1
            found.begin(lambda: None)
            desk.asked.answer(b'{"active":false}')
    assert asked == FAILURES_AT_ONCE
    for number in range(3 * FAILURES_AT_ONCE):  # good ones are not charged
        found = desk.judge.judge(f"Bearer good-{number}", RESOURCE, "192.0.2.7")
        assert isinstance(found, Pending)
        found.begin(lambda: None)
        desk.asked.answer(msgspec.json.encode(SAID))


def test_garbage_drives_out_no_good_answer_and_no_good_token() -> None:
    desk = Desk(introspection=Introspected(300.0))
    known = HAND.token()
    desk.good(known)
    settle(desk, "opaque", SAID)
    for number in range(REMEMBERED_COUNT + 10):
        found = desk.judge.judge(f"Bearer g{number}", RESOURCE, f"{number}")
        assert isinstance(found, Pending)
        found.begin(lambda: None)
        desk.asked.answer(b'{"active":false}')
    assert len(desk.memory.denials) == REMEMBERED_COUNT
    before = desk.judge.signature_checks
    assert (desk.good("opaque").subject, desk.good(known).subject) == ("bob", "alice")
    assert desk.asked.questions == [] and desk.judge.signature_checks == before


def test_the_budget_counts_networks_and_forgets_the_oldest() -> None:
    clock = FakeClock()
    budget = CheckBudget(clock)
    budget.charge("2001:db8::1", FAILURES_AT_ONCE)
    assert not budget.has_room("2001:db8::ffff")
    assert budget.has_room("2001:db8:0:1::1")
    budget.charge("::ffff:192.0.2.1", FAILURES_AT_ONCE)
    assert not budget.has_room("192.0.2.1")
    budget.charge("192.0.2.1", -1.0)
    assert budget.has_room("192.0.2.1")
    for number in range(ADDRESSES_COUNT + 10):
        budget.charge(f"host-{number}")
    assert len(budget._spent) == ADDRESSES_COUNT
    assert budget.has_room("fe80::1%lo") and budget.has_room("::zz")


# -- step-up ------------------------------------------------------------------------------------------------------


def test_a_sign_in_that_is_too_old_or_too_weak_is_asked_for_anew() -> None:
    desk = Desk(acr_values=("gold", "silver"), max_age_seconds=600)
    good = desk.ask(HAND.token(acr="silver", auth_time=NOW - 60))
    assert isinstance(good, Lease)
    assert good.until == NOW + 540
    for changes in (
        {"acr": "bronze", "auth_time": NOW},
        {"auth_time": NOW},
        {"acr": "gold"},
        {"acr": "gold", "auth_time": NOW - 600},
    ):
        found = desk.bad(HAND.token(**changes), kind="step-up")
        assert (found.status, found.error) == (401, "insufficient_user_authentication")
        assert dict(found.more) == {"acr_values": "gold silver", "max_age": "600"}
    token = HAND.token(acr="gold", auth_time=NOW - 60)
    assert desk.good(token).subject == "alice"
    desk.clock.advance(540)
    assert desk.bad(token, kind="step-up").reason == "signed in too long ago"


def test_entra_gets_its_own_challenge_where_the_client_can_answer_one() -> None:
    desk = Desk(**of("entra", acr_values=("c1",)))
    able = HAND.token({"typ": "JWT"}, **(ENTRA | {"xms_cc": ["CP1"]}))
    found = desk.bad(able, kind="step-up")
    asked = msgspec.json.decode(base64.b64decode(dict(found.more)["claims"]))
    assert asked == {"access_token": {"acrs": {"essential": True, "value": "c1"}}}
    assert (found.status, found.error) == (401, "insufficient_claims")
    assert desk.bad(HAND.token({"typ": "JWT"}, **ENTRA), kind="step-up").status == 403
    assert desk.good(HAND.token({"typ": "JWT"}, **(ENTRA | {"acrs": ["c1"]}))).subject == "alice"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([*claims_at(NOW), "azp", "scp", "tid", "cid", "typ", "acr", "acrs", "auth_time", "xms_cc", "uti", "nbf"]), JSON
    ),
    st.sampled_from(["generic", "entra", "keycloak", "auth0", "okta"]),
    st.booleans(),
)  # fmt: skip
def test_no_claims_crash_the_reader_and_what_it_gives_is_well_formed(
    changes: dict[str, Any], profile: str, is_introspected: bool
) -> None:
    found = read_foreign(
        claims_at(NOW) | changes, TrustedIssuer(ISSUER, **of(profile)), "id", is_introspected=is_introspected
    )
    if isinstance(found, str):
        return
    assert found.subject and found.client and found.token_id and found.audiences
    assert found.expires_at >= 0
    assert all(isinstance(one, str) for one in (*found.roles, *found.scopes, *found.audiences))
