"""JWTs of others: clients' proofs and ID tokens, each bad in one way (T-12)."""

from __future__ import annotations

import base64
import json
import warnings
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import ECKey, OctKey, RSAKey

from doorward.identity import brokered
from doorward.identity.assertions import BadAssertion, peek, verified
from doorward.identity.brokered import Provider, read_id_token, read_provider, who_is
from doorward.identity.clients import Client, prove
from doorward.identity.oauth_forms import ASSERTION_TYPE, OAuthRefusal, Presented, read_client, read_form

NOW = 1_800_000_000.0
KEY = ECKey.generate_key("P-256", private=True)
OTHER = ECKey.generate_key("P-256", private=True)
RSA = RSAKey.generate_key(2_048, private=True)
JWKS = {"keys": [{**KEY.as_dict(private=False), "kid": "one"}, {**RSA.as_dict(private=False), "kid": "two"}]}
ISSUER = "https://gate.example"
GOOD = {"iss": "robot", "sub": "robot", "aud": ISSUER, "jti": "1", "iat": NOW, "exp": NOW + 60}
IDP = Provider(
    "https://idp.example",
    "https://idp.example/a",
    "https://idp.example/t",
    "https://idp.example/j",
    algorithms=("ES256", "RS256"),
)
ID = {
    "iss": "https://idp.example",
    "sub": "carol",
    "aud": "doorward",
    "nonce": "n",
    "iat": NOW,
    "exp": NOW + 60,
}


class Marks:
    """Marks that may be set once."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, str]] = set()

    def mark_once(self, space: str, key: str, expires_at: float, now: float) -> bool:
        if (space, key) in self.seen:
            return False
        self.seen.add((space, key))
        return True


def signed(claims: Any, key: Any = KEY, **header: Any) -> str:
    head = {"alg": "ES256", "kid": "one", **header}
    body = json.dumps(
        {name: one for name, one in claims.items() if one is not ...} if isinstance(claims, dict) else claims
    )
    return jws.serialize_compact({k: v for k, v in head.items() if v is not ...}, body, key, [head["alg"]])


def plain(header: Any, claims: Any, mac: str = "") -> str:
    parts = (
        base64.urlsafe_b64encode(json.dumps(one).encode()).rstrip(b"=").decode() for one in (header, claims)
    )
    return ".".join(parts) + "." + mac


def test_a_good_jwt_holds_with_each_algorithm_that_is_allowed() -> None:
    assert verified(signed(GOOD), JWKS)["sub"] == "robot"
    assert verified(signed(GOOD, RSA, alg="RS256", kid="two"), JWKS)["sub"] == "robot"
    assert verified(signed(GOOD, RSA, alg="PS256", kid="two"), JWKS)["sub"] == "robot"
    assert peek(signed(GOOD))["sub"] == "robot"


CONFUSED = OctKey.import_key(base64.b64decode("c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"))
BAD = [
    ("alg none", plain({"alg": "none", "kid": "one"}, GOOD)),
    ("alg None", plain({"alg": "None", "kid": "one"}, GOOD)),
    ("no alg", plain({"kid": "one"}, GOOD)),
    ("HS256", signed(GOOD, CONFUSED, alg="HS256")),
    ("a list as alg", plain({"alg": ["ES256"], "kid": "one"}, GOOD, "AA")),
    ("another key", signed(GOOD, OTHER)),
    ("unknown kid", signed(GOOD, kid="three")),
    ("no kid and no key of its curve", plain({"alg": "ES384"}, GOOD, "AA")),
    ("kid is a path", signed(GOOD, kid="../../etc/passwd")),
    ("kid is SQL", signed(GOOD, kid="' OR 1=1 --")),
    ("kid is a URL", signed(GOOD, kid="https://evil.example/k")),
    ("kid of another kind of key", signed(GOOD, kid="two")),
    ("an access token", signed(GOOD, typ="at+jwt")),
    ("a logout token", signed(GOOD, typ="logout+jwt")),
    ("typ is a number", plain({"alg": "ES256", "kid": "one", "typ": 1}, GOOD, "AA")),
    ("brings its key", plain({"alg": "ES256", "kid": "one", "jwk": OTHER.as_dict(private=False)}, GOOD, "AA")),
    ("says where its key is", plain({"alg": "ES256", "kid": "one", "jku": "https://evil.example"}, GOOD, "AA")),
    ("certificate URL", plain({"alg": "ES256", "kid": "one", "x5u": "https://evil.example"}, GOOD, "AA")),
    ("crit", plain({"alg": "ES256", "kid": "one", "crit": ["x"]}, GOOD, "AA")),
    ("no signature", signed(GOOD).rpartition(".")[0] + "."),
    ("two parts", signed(GOOD).rpartition(".")[0]),
    ("five parts", signed(GOOD) + ".x.y"),
    ("claims changed", signed(GOOD).split(".")[0] + "." + plain({}, {**GOOD, "sub": "root"}).split(".")[1] + "." + signed(GOOD).split(".")[2]),
    ("padded", signed(GOOD) + "=="),
    ("claims are a list", signed([GOOD])),
    ("too long", signed({**GOOD, "x": "x" * 20_000})),
    ("nothing", ""),
    ("an umlaut", signed(GOOD)[:-2] + "ü"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "token"), BAD, ids=lambda one: one[:24])
def test_t12_a_jwt_that_is_bad_in_one_way_does_not_hold(name: str, token: str) -> None:
    with pytest.raises(BadAssertion):
        verified(token, JWKS)


@pytest.mark.parametrize(
    "jwks",
    [
        {},
        {"keys": "x"},
        {"keys": [1, None]},
        {"keys": [{**KEY.as_dict(private=False), "kid": "one", "use": "enc"}]},
        {"keys": [{**KEY.as_dict(private=False), "kid": "one", "alg": "ES384"}]},
        {"keys": [{**KEY.as_dict(private=False), "kid": "one", "kty": "oct", "k": "AAAA"}]},
        {"keys": [{"kty": "EC", "crv": "P-256", "kid": "one"}]},
    ],
)
def test_a_key_set_that_has_no_fitting_key_proves_nothing(jwks: Any) -> None:
    with pytest.raises(BadAssertion):
        verified(signed(GOOD), jwks)


def test_a_small_rsa_key_proves_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library says so too
        small = RSAKey.generate_key(1_024, private=True)
        token = signed(GOOD, small, alg="RS256", kid="s")
    with pytest.raises(BadAssertion):
        verified(token, {"keys": [{**small.as_dict(private=False), "kid": "s"}]})


@given(st.text(max_size=300))
def test_no_text_makes_the_reader_fail_in_another_way(text: str) -> None:
    peek(text)
    with pytest.raises(BadAssertion):
        verified(text, JWKS)


# -- a client's proof ------------------------------------------------------------------------------------------------

ROBOT = Client("robot", "Robot", "settings", jwks=JWKS)
AUDIENCE = (ISSUER, f"{ISSUER}/oauth/token")


def proof(**changes: Any) -> None:
    prove(
        Presented("robot", assertion=signed({**GOOD, **changes})),
        ROBOT,
        store=Marks(),
        now=NOW,
        audience=AUDIENCE,
    )  # type: ignore[arg-type]


def test_a_client_proves_itself_with_its_key_once() -> None:
    proof()
    proof(aud=f"{ISSUER}/oauth/token")
    proof(aud=[ISSUER])
    marks, presented = Marks(), Presented("robot", assertion=signed(GOOD))
    prove(presented, ROBOT, store=marks, now=NOW, audience=AUDIENCE)  # type: ignore[arg-type]
    with pytest.raises(OAuthRefusal, match="client"):
        prove(presented, ROBOT, store=marks, now=NOW, audience=AUDIENCE)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "other"}, {"sub": "other"}, {"iss": ...}, {"sub": ...}, {"aud": "https://gate.example/"}, {"aud": ...},
        {"aud": "https://evil.example"}, {"aud": [ISSUER, "https://evil.example"]}, {"aud": []}, {"aud": "GATE.example"},
        {"aud": "https://gate.example/oauth/introspect"},
        {"exp": ...}, {"exp": NOW - 60}, {"exp": NOW + 3_700}, {"exp": "soon"}, {"exp": True}, {"iat": NOW + 300},
        {"iat": "x"}, {"nbf": NOW + 300}, {"nbf": "x"}, {"jti": ...}, {"jti": ""}, {"jti": 1}, {"jti": "x" * 300},
    ],
    ids=str,
)  # fmt: skip
def test_t12_a_proof_that_is_bad_in_one_way_proves_nothing(changes: dict[str, Any]) -> None:
    with pytest.raises(OAuthRefusal) as caught:
        proof(**changes)
    assert (caught.value.error, caught.value.status) == ("invalid_client", 401)


@pytest.mark.parametrize(
    ("form", "authorization"),
    [
        ("client_id=a&client_secret=s", "Basic YTpz"),
        ("client_id=b", "Basic YTpz"),
        ("", "Basic !!!"),
        ("", "Basic YQ=="),
        ("", "Bearer x"),
        ("", None),
        ("client_assertion=x.y.z", None),
        (f"client_assertion=x.y.z&client_assertion_type={ASSERTION_TYPE}", None),
        (f"client_id=a&client_secret=s&client_assertion=x.y.z&client_assertion_type={ASSERTION_TYPE}", None),
        ("client_id=a&client_assertion_type=urn:x&client_assertion=x.y.z", None),
    ],
)
def test_a_client_shows_itself_in_exactly_one_way(form: str, authorization: str | None) -> None:
    with pytest.raises(OAuthRefusal):
        read_client(read_form(form), authorization)


# -- ID tokens -------------------------------------------------------------------------------------------------------


def id_token(**changes: Any) -> dict[str, Any]:
    header = changes.pop("header", {})
    return read_id_token(
        {"id_token": signed({**ID, **changes}, **header)},
        JWKS,
        IDP,
        expected="n",
        client_id="doorward",
        now=NOW,
    )


def test_a_good_id_token_names_a_user_with_roles() -> None:
    claims = id_token(roles=["staff", "other"])
    assert who_is(claims, provider=IDP.issuer, subject_claim="sub", roles_claim="roles", mapped={}).roles == (
        "staff",
        "other",
    )
    mapped = who_is(
        claims,
        provider=IDP.issuer,
        subject_claim="sub",
        roles_claim="roles",
        mapped={"staff": ("user", "user"), "x": ("admin",)},
    )
    assert (mapped.subject, mapped.roles) == ("carol", ("user",))
    assert id_token(aud=["doorward", "other"], azp="doorward")
    assert who_is(
        {"sub": "a", "roles": "staff"},
        provider=IDP.issuer,
        subject_claim="sub",
        roles_claim="roles",
        mapped={},
    ).roles == ("staff",)
    assert (
        who_is(
            {"sub": "a", "roles": {"x": 1}},
            provider=IDP.issuer,
            subject_claim="sub",
            roles_claim="roles",
            mapped={},
        ).roles
        == ()
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://evil.example"}, {"iss": "https://idp.example/"}, {"iss": ...}, {"aud": "other"}, {"aud": ...},
        {"aud": ["doorward", "other"]}, {"aud": ["doorward", "other"], "azp": "other"}, {"azp": "other"},
        {"nonce": "m"}, {"nonce": ...}, {"nonce": 1}, {"nonce": "ü"}, {"exp": NOW - 60}, {"exp": ...}, {"iat": ...},
        {"iat": NOW + 300}, {"exp": NOW + 200_000}, {"header": {"kid": "three"}}, {"header": {"typ": "at+jwt"}},
    ],
    ids=str,
)  # fmt: skip
def test_an_id_token_that_is_bad_in_one_way_signs_nobody_in(changes: dict[str, Any]) -> None:
    with pytest.raises(OAuthRefusal) as caught:
        id_token(**changes)
    assert (caught.value.error, caught.value.status) == ("server_error", 502)


@pytest.mark.parametrize("answer", [None, [], {}, {"id_token": 1}, {"access_token": "x"}])
def test_an_answer_without_an_id_token_signs_nobody_in(answer: Any) -> None:
    with pytest.raises(OAuthRefusal):
        read_id_token(answer, JWKS, IDP, expected="n", client_id="doorward", now=NOW)


@pytest.mark.parametrize("subject", [..., "", 5, "client:lamp", "x" * 300, "a\nb", ["a"]])
def test_claims_that_name_nobody_sign_nobody_in(subject: Any) -> None:
    claims = {} if subject is ... else {"sub": subject}
    with pytest.raises(OAuthRefusal):
        who_is(claims, provider=IDP.issuer, subject_claim="sub", roles_claim="roles", mapped={})


@pytest.mark.parametrize(
    "changes",
    [
        {"issuer": "https://evil.example"}, {"issuer": "https://idp.example/"}, {"issuer": ...}, {"jwks_uri": ...},
        {"token_endpoint": "file:///etc/passwd"}, {"authorization_endpoint": "javascript:alert(1)"},
        {"authorization_endpoint": 1}, {"code_challenge_methods_supported": ["plain"]},
    ],
    ids=str,
)  # fmt: skip
def test_metadata_that_does_not_fit_is_not_used(changes: dict[str, Any]) -> None:
    good = {
        "issuer": "https://idp.example",
        "authorization_endpoint": "https://idp.example/a",
        "token_endpoint": "https://idp.example/t",
        "jwks_uri": "https://idp.example/j",
    }
    assert read_provider("https://idp.example", good).issuer == "https://idp.example"
    with pytest.raises(OAuthRefusal):
        read_provider("https://idp.example", {k: v for k, v in {**good, **changes}.items() if v is not ...})
    with pytest.raises(OAuthRefusal):
        read_provider("https://idp.example", [])
    assert brokered.TRIP_SECONDS == 600
