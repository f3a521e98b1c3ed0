from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import ECKey, OctKey, RSAKey

from doorward.base.clock import FakeClock
from doorward.identity.bearer import REMEMBERED_COUNT, TOKEN_BYTES
from doorward.identity.budget import FAILURES_AT_ONCE, CheckBudget
from doorward.identity.keys import KeySet
from doorward.identity.principal import Principal
from doorward.identity.tokens import (
    TokenJudge,
    TokenRefusal,
    issue,
)

ISSUER = "http://127.0.0.1:8808"
RESOURCE = ISSUER + "/time/mcp"
OTHER = ISSUER + "/tickets/mcp"
KEYS = KeySet.generate()
CLOCK = FakeClock()
NOW = int(CLOCK.now())


def claims(**changes: Any) -> dict[str, Any]:
    found = {
        "iss": ISSUER,
        "sub": "alice",
        "aud": RESOURCE,
        "client_id": "cli",
        "iat": NOW,
        "nbf": NOW,
        "exp": NOW + 600,
        "jti": "j-1",
        "scope": "mcp",
        "roles": ["user"],
    } | changes
    return {name: value for name, value in found.items() if value is not ...}


def b64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def signed(payload: bytes | dict[str, Any], header: dict[str, Any] | None = None, keys: KeySet = KEYS) -> str:
    content = payload if isinstance(payload, bytes) else msgspec.json.encode(payload)
    return keys.current.sign(header or {"typ": "at+jwt"}, content)


def sign_raw(header: bytes, payload: bytes, keys: KeySet = KEYS) -> str:
    """An ES256 signature over a header that no library would write."""
    private = ECKey.import_key(keys.current.stored())
    algorithm = jws.JWSRegistry.algorithms["ES256"]
    start = f"{b64(header)}.{b64(payload)}"
    return f"{start}.{b64(algorithm.sign(start.encode(), private))}"


def judge(**changes: Any) -> TokenJudge:
    options: dict[str, Any] = {"users": {"alice": ("user", "auditor")}} | changes
    revoked = options.pop("revoked", ())
    return TokenJudge(KEYS.jwks(), ISSUER, options.pop("clock", CLOCK), revoked, **options)


def test_one_address_has_a_budget_of_failures_and_known_tokens_go_on() -> None:
    clock = FakeClock()
    one = judge(clock=clock, budget=CheckBudget(clock))
    assert isinstance(one.judge(f"Bearer {GOOD}", RESOURCE, "192.0.2.1"), Principal)
    before = one.signature_checks
    forged = [
        sign_raw(
            msgspec.json.encode({"typ": "at+jwt", "alg": "ES256", "kid": KEYS.current.kid}),
            msgspec.json.encode(claims(jti=f"{n}")),
            FOREIGN,
        )
        for n in range(200)
    ]
    found = [one.judge(f"Bearer {token}", RESOURCE, "192.0.2.1") for token in forged]
    assert one.signature_checks - before == FAILURES_AT_ONCE
    kinds = [refusal.kind for refusal in found if isinstance(refusal, TokenRefusal)]
    assert kinds == ["invalid"] * FAILURES_AT_ONCE + ["busy"] * (200 - FAILURES_AT_ONCE)
    assert isinstance(one.judge(f"Bearer {GOOD}", RESOURCE, "192.0.2.1"), Principal)
    fresh = signed(claims(jti="fresh"))
    assert isinstance(one.judge(f"Bearer {fresh}", RESOURCE, "192.0.2.1"), TokenRefusal)
    assert isinstance(one.judge(f"Bearer {fresh}", RESOURCE, "192.0.2.2"), Principal)


def test_without_a_budget_every_forged_token_costs_a_signature() -> None:
    one = judge()
    for number in range(100):
        one.judge(
            f"Bearer {sign_raw(msgspec.json.encode({'typ': 'at+jwt', 'alg': 'ES256', 'kid': KEYS.current.kid}), msgspec.json.encode(claims(jti=f'{number}')), FOREIGN)}",
            RESOURCE,
            "192.0.2.1",
        )
    assert one.signature_checks == 100


def ask(token: str, resource: str = RESOURCE, **changes: Any) -> Principal | TokenRefusal:
    return judge(**changes).judge(f"Bearer {token}", resource)


def issued(**changes: Any) -> str:
    options: dict[str, Any] = {
        "issuer": ISSUER,
        "resource": RESOURCE,
        "subject": "alice",
        "client": "cli",
        "roles": ("user",),
        "clock": CLOCK,
        "ttl_seconds": 600,
    }
    return issue(KEYS, **(options | changes))


def test_an_issued_token_is_good_for_its_resource_and_names_its_bearer() -> None:
    found = ask(issued())
    assert isinstance(found, Principal)
    assert (found.subject, found.client, found.issuer, found.roles, found.scopes) == (
        "alice",
        "cli",
        ISSUER,
        ("user",),
        ("mcp",),
    )
    assert found.expires_at == NOW + 600
    assert found.token_id


def test_an_issued_token_has_the_form_of_rfc_9068() -> None:
    token = issued()
    header, payload = (base64.urlsafe_b64decode(part + "==") for part in token.split(".")[:2])
    assert msgspec.json.decode(header) == {"typ": "at+jwt", "alg": "ES256", "kid": KEYS.current.kid}
    assert set(msgspec.json.decode(payload)) == set(claims())
    assert msgspec.json.decode(payload)["aud"] == RESOURCE


def test_a_token_for_another_server_is_refused_there_and_still_good_here() -> None:
    one = judge()
    token = "Bearer " + issued()
    refused = one.judge(token, OTHER)
    assert isinstance(refused, TokenRefusal)
    assert (refused.status, refused.error, refused.reason) == (
        401,
        "invalid_token",
        "issued for another resource",
    )
    assert isinstance(one.judge(token, RESOURCE), Principal)


PUBLIC_PEM = ECKey.import_key(KEYS.current.public()).as_pem(private=False)  # type: ignore[arg-type]
FOREIGN = KeySet.generate()


def hmac_token(key: bytes, kid: str) -> str:
    start = (
        b64(msgspec.json.encode({"typ": "at+jwt", "alg": "HS256", "kid": kid}))
        + "."
        + b64(msgspec.json.encode(claims()))
    )
    return start + "." + b64(hmac.new(key, start.encode(), hashlib.sha256).digest())


def unsigned(algorithm: str) -> str:
    header = {"typ": "at+jwt", "alg": algorithm, "kid": KEYS.current.kid}
    return f"{b64(msgspec.json.encode(header))}.{b64(msgspec.json.encode(claims()))}."


def with_header(**members: Any) -> str:
    header = {"typ": "at+jwt", "alg": "ES256", "kid": KEYS.current.kid} | members
    present = {name: value for name, value in header.items() if value is not ...}
    return sign_raw(msgspec.json.encode(present), msgspec.json.encode(claims()))


def rsa_token() -> str:
    key = RSAKey.generate_key(2048)
    return jws.serialize_compact(
        {"typ": "at+jwt", "alg": "RS256", "kid": KEYS.current.kid},
        msgspec.json.encode(claims()),
        key,
        ["RS256"],
    )


GOOD = signed(claims())
ATTACKS: dict[str, str] = {
    "alg none": unsigned("none"),
    "alg none in odd case": unsigned("nOnE") + "AA",
    "hmac with the public key": hmac_token(PUBLIC_PEM, KEYS.current.kid),
    "hmac with an empty key and a path as kid": hmac_token(b"", "../../../../dev/null"),
    "kid with sql": with_header(kid="' UNION SELECT 'k'--"),
    "no kid": with_header(kid=...),
    "kid a number": with_header(kid=7),
    "jku": with_header(jku="http://127.0.0.1:9/jwks.json"),
    "x5u": with_header(x5u="http://127.0.0.1:9/cert"),
    "embedded jwk": with_header(jwk=FOREIGN.current.public()),
    "foreign key under our kid": sign_raw(
        msgspec.json.encode({"typ": "at+jwt", "alg": "ES256", "kid": KEYS.current.kid}),
        msgspec.json.encode(claims()),
        FOREIGN,
    ),
    "crit": with_header(crit=["x"], x=1),
    "b64 false": with_header(b64=False, crit=["b64"]),
    "duplicate alg": sign_raw(
        b'{"typ":"at+jwt","alg":"none","alg":"ES256","kid":"%s"}' % KEYS.current.kid.encode(), b"{}"
    ),
    "header too large": with_header(note="x" * 2000),
    "rs256": rsa_token(),
    "foreign issuer's key": signed(claims(), keys=FOREIGN),
    "id token": with_header(typ="JWT"),
    "no typ": with_header(typ=...),
    "logout token": with_header(typ="logout+jwt"),
    "dpop proof": with_header(typ="dpop+jwt"),
    "encrypted": "eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIiwiemlwIjoiREVGIn0..AA.AA.AA",
    "signature cut": GOOD[:-1],
    "signature empty": GOOD.rsplit(".", 1)[0] + ".",
    "padding": GOOD + "==",
    "not a jwt": "abcdef",
    "payload exchanged": ".".join(
        [GOOD.split(".")[0], b64(msgspec.json.encode(claims(sub="root"))), GOOD.split(".")[2]]
    ),
    "duplicate sub": signed(msgspec.json.encode(claims())[:-1] + b',"sub":"root"}'),
    "payload an array": signed(b"[]"),
    "payload no json": signed(b"\x80"),
    "expired": signed(claims(iat=NOW - 700, nbf=NOW - 700, exp=NOW)),
    "exp a text": signed(claims(exp="9999999999")),
    "exp missing": signed(claims(exp=...)),
    "exp true": signed(claims(exp=True)),
    "exp beyond a double": signed(msgspec.json.encode(claims(exp=...))[:-1] + b',"exp":1e400}'),
    "exp far away": signed(claims(exp=NOW + 10**9)),
    "exp before iat": signed(claims(iat=NOW, exp=NOW - 5)),
    "exp negative": signed(claims(exp=-1)),
    "iat missing": signed(claims(iat=...)),
    "iat ahead": signed(claims(iat=NOW + 86_000, exp=NOW + 86_400)),
    "nbf ahead": signed(claims(nbf=NOW + 300)),
    "nbf null": signed(claims(nbf=None)),
    "issuer missing": signed(claims(iss=...)),
    "issuer other": signed(claims(iss="https://evil.example")),
    "issuer with slash": signed(claims(iss=ISSUER + "/")),
    "issuer upper case": signed(claims(iss=ISSUER.upper())),
    "issuer in a list": signed(claims(iss=[ISSUER])),
    "audience missing": signed(claims(aud=...)),
    "audience another server": signed(claims(aud=OTHER)),
    "audience the gateway": signed(claims(aud=ISSUER)),
    "audience a prefix": signed(claims(aud=RESOURCE[:-1])),
    "audience longer": signed(claims(aud=RESOURCE + "2")),
    "audience with slash": signed(claims(aud=RESOURCE + "/")),
    "audience the client": signed(claims(aud="cli")),
    "audience two with ours": signed(claims(aud=[OTHER, RESOURCE])),
    "audience twice ours": signed(claims(aud=[RESOURCE, RESOURCE])),
    "audience empty list": signed(claims(aud=[])),
    "audience nested": signed(claims(aud=[[RESOURCE]])),
    "subject empty": signed(claims(sub="")),
    "subject missing": signed(claims(sub=...)),
    "subject a number": signed(claims(sub=1)),
    "subject unknown": signed(claims(sub="mallory")),
    "client missing": signed(claims(client_id=...)),
    "jti missing": signed(claims(jti=...)),
    "jti empty": signed(claims(jti="")),
    "roles a text": signed(claims(roles="user")),
    "roles of numbers": signed(claims(roles=[1])),
    "scope a list": signed(claims(scope=["mcp"])),
    "bound to a certificate": signed(claims(cnf={"x5t#S256": "x"})),
    "made up account above local": signed(claims(sub="mallory", doorward_created=True)),
}
MALFORMED = (
    "Bearer",
    "Bearer ",
    "Bearer a b",
    "Bearer a,b",
    "Bearer \u00e4",
    "Bearer a\tb",
    "Bearer =",
    "",
    "(",
    "Bearer\ta",
)


@pytest.mark.parametrize("name", ATTACKS)
def test_a_bad_token_is_401_and_its_text_is_never_told(name: str) -> None:
    found = ask(ATTACKS[name])
    assert isinstance(found, TokenRefusal), name
    assert (found.status, found.kind, found.error) == (401, "invalid", "invalid_token")
    assert ATTACKS[name] not in found.reason + found.tell


def test_the_same_tokens_are_good_without_their_fault() -> None:
    for token in (
        GOOD,
        signed(claims(aud=[RESOURCE])),
        signed(claims(nbf=...)),
        with_header(typ="AT+JWT"),
        with_header(typ="application/at+jwt"),
        signed(msgspec.json.encode(claims(exp=...))[:-1] + b',"exp":%d.5}' % (NOW + 60)),
        signed(claims(iat=NOW + 4, nbf=NOW + 4)),
    ):
        assert isinstance(ask(token), Principal)


@pytest.mark.parametrize("value", MALFORMED)
def test_a_malformed_header_is_400(value: str) -> None:
    found = judge().judge(value, RESOURCE)
    assert isinstance(found, TokenRefusal)
    assert (found.status, found.kind, found.error) == (400, "malformed", "invalid_request")


@pytest.mark.parametrize("value", [None, "Basic YTpi", "Negotiate"])
def test_no_bearer_token_is_401_without_an_error_attribute(value: str | None) -> None:
    found = judge().judge(value, RESOURCE)
    assert isinstance(found, TokenRefusal)
    assert (found.status, found.kind, found.error) == (401, "missing", None)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_is_compared_without_case(scheme: str) -> None:
    assert isinstance(judge().judge(f"{scheme}  {GOOD} ", RESOURCE), Principal)


def test_a_huge_token_is_refused_before_any_work() -> None:
    one = judge()
    found = one.judge("Bearer " + "a" * (TOKEN_BYTES + 1), RESOURCE)
    assert isinstance(found, TokenRefusal)
    assert found.reason == "token longer than the cap"
    assert not one._bad


def test_a_token_dies_by_the_second_it_expires_even_from_the_cache() -> None:
    clock = FakeClock(NOW)
    one = judge(clock=clock)
    assert isinstance(one.judge("Bearer " + GOOD, RESOURCE), Principal)
    clock.advance(599.9)
    assert isinstance(one.judge("Bearer " + GOOD, RESOURCE), Principal)
    clock.advance(0.1)
    assert isinstance(one.judge("Bearer " + GOOD, RESOURCE), TokenRefusal)


def test_a_token_that_is_early_is_good_later_and_says_when() -> None:
    clock = FakeClock(NOW)
    one = judge(clock=clock)
    token = "Bearer " + signed(claims(nbf=NOW + 300))
    early = one.judge(token, RESOURCE)
    assert isinstance(early, TokenRefusal)
    assert early.retry_at == NOW + 295
    clock.advance(295)
    assert isinstance(one.judge(token, RESOURCE), Principal)


def test_revocation_and_removal_of_an_account_bite_on_cached_tokens() -> None:
    one = judge()
    assert isinstance(one.judge("Bearer " + GOOD, RESOURCE), Principal)
    one.renew(revoked={"j-1"}, users={"alice": ("user",)})
    assert isinstance(one.judge("Bearer " + GOOD, RESOURCE), TokenRefusal)
    one.renew(revoked=(), users={"bob": ("user",)})
    assert isinstance(one.judge("Bearer " + GOOD, RESOURCE), TokenRefusal)
    one.renew(revoked=(), users={"alice": ()})
    found = one.judge("Bearer " + GOOD, RESOURCE)
    assert isinstance(found, Principal)
    assert found.roles == ()
    assert one.signature_checks == 1


def test_only_roles_that_the_user_still_has_count() -> None:
    found = ask(signed(claims(roles=["admin", "auditor"])))
    assert isinstance(found, Principal)
    assert found.roles == ("auditor",)


def test_an_account_that_the_command_line_made_counts_only_where_that_is_allowed() -> None:
    token = issued(subject="carol", created=True)
    found = ask(token, accepts_created=True)
    assert isinstance(found, Principal)
    assert found.roles == ("user",)
    assert isinstance(ask(token), TokenRefusal)
    assert isinstance(ask(issued(subject="carol"), accepts_created=True), TokenRefusal)


def test_garbage_costs_one_signature_check_and_the_cache_is_bounded() -> None:
    one = judge()
    bad = "Bearer " + ATTACKS["payload exchanged"]
    for _ in range(5):
        assert isinstance(one.judge(bad, RESOURCE), TokenRefusal)
    assert one.signature_checks == 1
    for number in range(REMEMBERED_COUNT + 50):
        one.judge(f"Bearer x{number}", RESOURCE)
    assert len(one._bad) == REMEMBERED_COUNT
    assert one.signature_checks == 1


def test_a_retired_key_still_verifies_and_a_forgotten_one_does_not() -> None:
    rotated = KEYS.rotated()
    assert isinstance(
        TokenJudge(rotated.jwks(), ISSUER, CLOCK, users={"alice": ()}).judge(f"Bearer {GOOD}", RESOURCE),
        Principal,
    )
    other = TokenJudge(FOREIGN.jwks(), ISSUER, CLOCK, users={"alice": ()})
    assert isinstance(other.judge(f"Bearer {GOOD}", RESOURCE), TokenRefusal)
    assert other.signature_checks == 0


def test_symmetric_and_foreign_keys_in_a_key_set_are_left_out() -> None:
    secret = OctKey.generate_key(256).as_dict(private=True) | {"kid": "s", "alg": "HS256"}
    one = TokenJudge({"keys": [secret, {"kty": "EC"}]}, ISSUER, CLOCK, users={"alice": ()})
    assert isinstance(one.judge(f"Bearer {GOOD}", RESOURCE), TokenRefusal)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200))
def test_no_header_text_authenticates_or_raises(text: str) -> None:
    for value in (text, "Bearer " + text):
        assert isinstance(ONE.judge(value, RESOURCE), TokenRefusal)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.sampled_from("ABab01-_.=~+/"))
def test_no_changed_character_leaves_a_token_good(position: int, char: str) -> None:
    changed = GOOD[:position] + char + GOOD[position + 1 :]
    assert isinstance(ONE.judge("Bearer " + changed, RESOURCE), TokenRefusal) or changed == GOOD


ONE = judge()


@pytest.mark.parametrize("scheme", ["DPoP", "dpop"])
def test_the_scheme_of_proofs_names_a_token_too_and_what_it_is_bound_to(scheme: str) -> None:
    digest = "A" * 43
    text = issue(
        KEYS,
        issuer=ISSUER,
        resource=RESOURCE,
        subject="alice",
        client="cli",
        clock=CLOCK,
        confirmation={"jkt": digest},
    )
    found = judge().judge(f"{scheme} {text}", RESOURCE)
    assert isinstance(found, Principal)
    assert found.bound.key == digest
