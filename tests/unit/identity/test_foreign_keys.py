"""Keys of other issuers: what of a set can verify, by the vectors of the RFCs and against hostile sets."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc.jwk import OctKey
from tests.unit.identity.foreign_kit import Hand

from doorward.identity.bearer import split_token
from doorward.identity.foreign_keys import KEYS_COUNT, algorithm_of, foreign_keys, holds
from doorward.identity.trust import ALGORITHMS

# RFC 7515 appendices A.2 and A.3, RFC 8037 appendices A.2 and A.4.
PAYLOAD = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
VECTORS: dict[str, tuple[dict[str, Any], str]] = {
    "RS256": (
        {
            "kty": "RSA", "e": "AQAB",
            "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgN"
            "MsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdV"
            "MTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
        },
        (f"eyJhbGciOiJSUzI1NiJ9.{PAYLOAD}."
        "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjb"
        "KBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZES"
        "c6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw"),
    ),
    "ES256": (
        {
            "kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
        },
        (f"eyJhbGciOiJFUzI1NiJ9.{PAYLOAD}."
        "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"),
    ),
    "EdDSA": (
        {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
        ("eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc."
        "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"),
    ),
}  # fmt: skip


def verify(key: dict[str, Any], algorithm: str, token: str) -> bool:
    found = foreign_keys({"keys": [{**key, "kid": "k"}]}, ALGORITHMS)
    parts = split_token(token)
    assert isinstance(parts, tuple)
    return holds(found["k", algorithm], algorithm, token.rpartition(".")[0].encode(), parts[2])


@pytest.mark.parametrize("algorithm", VECTORS)
def test_the_vectors_of_the_rfcs_hold_and_a_changed_byte_does_not(algorithm: str) -> None:
    key, token = VECTORS[algorithm]
    assert verify(key, algorithm, token)
    start, _, signature = token.rpartition(".")
    changed = ("A" if signature[10] != "A" else "B").join((signature[:10], signature[11:]))
    assert not verify(key, algorithm, f"{start}.{changed}")
    assert not verify(key, algorithm, f"{start[:-2]}AA.{signature}")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_signs_and_verifies_with_its_own_key_only(algorithm: str) -> None:
    hand = Hand(algorithm)
    token = hand.token()
    assert verify(hand.public(), algorithm, token)
    found = foreign_keys(hand.jwks(), ALGORITHMS)
    assert set(found) == {("k1", algorithm)}
    assert foreign_keys(hand.jwks(), [one for one in ALGORITHMS if one != algorithm]) == {}


RSA = Hand("RS256").public()
EC = Hand("ES256").public()
WEAK = {**RSA, "n": RSA["n"][:171]}  # 1026 bits
LEFT_OUT: dict[str, dict[str, Any]] = {
    "no name": {**EC, "kid": ...},
    "an empty name": {**EC, "kid": ""},
    "a name that is no text": {**EC, "kid": 7},
    "a shared secret": {"kty": "oct", "k": "c2VjcmV0", "kid": "k1", "alg": "HS256"},
    "a shared secret for RS256": {"kty": "oct", "k": "c2VjcmV0", "kid": "k1", "alg": "RS256"},
    "another algorithm": {**EC, "alg": "ES512"},
    "HS256 with an RSA key": {**RSA, "alg": "HS256"},
    "ES256 with an RSA key": {**RSA, "alg": "ES256"},
    "algorithm none": {**EC, "alg": "none"},
    "algorithm as a list": {**EC, "alg": ["ES256"]},
    "for encryption": {**EC, "use": "enc"},
    "may not verify": {**EC, "key_ops": ["encrypt"]},
    "operations that are no list": {**EC, "key_ops": "verify"},
    "private": Hand("ES256").private(),
    "weak RSA": WEAK,
    "huge RSA": {**RSA, "n": "A" + "_" * 1_400 + "8"},
    "RSA exponent 1": {**RSA, "e": "AQ"},
    "RSA exponent 3": {**RSA, "e": "Aw"},
    "RSA even exponent": {**RSA, "e": "AQAC"},
    "curve unknown": {**EC, "crv": "secp256k1"},
    "curve of another kind": {**EC, "crv": "Ed25519"},
    "point not on the curve": {**EC, "x": EC["y"], "y": EC["x"]},
    "no point": {**EC, "y": ...},
    "point as a number": {**EC, "x": 1},
    "OKP with an EC curve": {"kty": "OKP", "crv": "P-256", "x": EC["x"], "kid": "k1"},
    "kind unknown": {**EC, "kty": "ec"},
    "no kind": {**EC, "kty": ...},
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_a_key_that_must_not_verify_is_left_out_and_the_next_still_counts(name: str) -> None:
    bad = {member: value for member, value in LEFT_OUT[name].items() if value is not ...}
    good = Hand("ES256", "good").public()
    assert set(foreign_keys({"keys": [bad, good]}, ALGORITHMS)) == {("good", "ES256")}


def test_two_keys_of_one_name_are_nobodys_but_kinds_may_share_one() -> None:
    one, two, rsa = Hand("ES256"), Hand("ES256"), Hand("RS256")
    assert foreign_keys(one.jwks(two), ALGORITHMS) == {}
    assert set(foreign_keys(one.jwks(rsa), ALGORITHMS)) == {("k1", "ES256"), ("k1", "RS256")}


def test_a_key_without_algorithm_verifies_what_its_kind_can() -> None:
    rsa = {name: value for name, value in RSA.items() if name != "alg"}
    assert set(foreign_keys({"keys": [rsa]}, ALGORITHMS)) == {("k1", "RS256"), ("k1", "PS256")}
    assert set(foreign_keys({"keys": [{**EC, "alg": "ES256", "key_ops": ["verify"]}]}, ALGORITHMS)) == {
        ("k1", "ES256")
    }
    assert algorithm_of("Ed25519") == "EdDSA" and algorithm_of(None) == "" and algorithm_of(["ES256"]) == ""


def test_only_the_first_keys_of_an_endless_set_are_looked_at() -> None:
    hand = Hand()
    keys = [{**hand.public(), "kid": str(number)} for number in range(KEYS_COUNT + 10)]
    assert len(foreign_keys({"keys": keys}, ALGORITHMS)) == KEYS_COUNT


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
MEMBERS = st.sampled_from(["kty", "crv", "x", "y", "n", "e", "alg", "use", "kid", "key_ops", "d"])
VALUES = JSON | st.sampled_from(["RSA", "EC", "OKP", "oct", "P-256", "Ed25519", "sig", "AQAB", "AA", "ES256"])


@settings(deadline=None)
@given(st.one_of(JSON, st.lists(st.one_of(JSON, st.dictionaries(MEMBERS, VALUES, max_size=8)), max_size=4)))
def test_no_set_of_keys_crashes_the_reader(keys: Any) -> None:
    for key in foreign_keys({"keys": keys}, ALGORITHMS).values():
        assert not isinstance(key, OctKey)
