from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.stand_ins.proofs import Holder, b64

from doorward.base.clock import FakeClock
from doorward.identity import proof as module
from doorward.identity.proof import ALGORITHMS, NonceSeal, Proof, ProofJudge, ProofRefusal

URL = "https://gate.example/time/mcp"
TOKEN = "eyJ.access.token"
CLOCK = FakeClock()
NOW = CLOCK.now()
NONCES = NonceSeal(b"k" * 32, CLOCK)
JUDGE = ProofJudge(NONCES, CLOCK, since=NOW - 1_000)
HOLDER, OTHER = Holder(), Holder()


def judged(text: str, judge: ProofJudge = JUDGE, **changes: Any) -> Proof | ProofRefusal:
    asked: dict[str, Any] = {"verb": "POST", "url": URL, "token": TOKEN, "key": HOLDER.jkt, **changes}
    return judge.judge(text, **asked)


def made(holder: Holder = HOLDER, *, header: dict[str, Any] | None = None, **changes: Any) -> str:
    given = {"iat": int(NOW), "nonce": NONCES.current(), **changes}
    return holder.jws(holder.header(**(header or {})), holder.claims(URL, TOKEN, **given))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_good_proof_of_each_algorithm_is_taken(algorithm: str) -> None:
    holder = Holder(algorithm)
    found = judged(made(holder), key=holder.jkt)
    assert isinstance(found, Proof)
    assert found.key == holder.jkt
    assert found.expires_at == int(NOW) + module.AGE_SECONDS


@pytest.mark.parametrize(
    ("htu", "fits"),
    [
        (URL, True),
        ("HTTPS://GATE.example:443/time/mcp", True),
        ("https://gate.example/time/mcp/", False),
        ("https://gate.example/time//mcp", False),
        ("https://gate.example/Time/mcp", False),
        ("https://gate.example/time/%6dcp", False),
        ("https://gate.example/time/../time/mcp", False),
        ("https://gate.example/mcp", False),
        ("https://gate.example/time/mcp?x=1", False),
        ("https://gate.example/time/mcp#x", False),
        ("https://gate.example:8443/time/mcp", False),
        ("https://user@gate.example/time/mcp", False),
        ("https://gate.example.evil/time/mcp", False),
        ("http://gate.example/time/mcp", False),
        ("https://gate.example:x/time/mcp", False),
        ("//gate.example/time/mcp", False),
        ("/time/mcp", False),
        ("https://gаte.example/time/mcp", False),  # a Cyrillic letter
        ("", False),
    ],
)
def test_the_url_is_the_configured_one(htu: str, fits: bool) -> None:
    assert isinstance(judged(made(htu=htu)), Proof) is fits


def raw(header: Any, claims: Any = None, holder: Holder = HOLDER) -> str:
    return holder.jws(header, claims or holder.claims(URL, TOKEN, iat=int(NOW), nonce=NONCES.current()))


def with_secret() -> str:
    """HS256 with the public key as the secret: the oldest of confusions."""
    header = b64(json.dumps(HOLDER.header(alg="HS256")).encode())
    claims = b64(json.dumps(HOLDER.claims(URL, TOKEN, iat=int(NOW))).encode())
    secret = json.dumps(HOLDER.jwk).encode()
    return f"{header}.{claims}.{b64(hmac.digest(secret, f'{header}.{claims}'.encode(), 'sha256'))}"


def unsigned(text: str, signature: str = "") -> str:
    return ".".join([*text.split(".")[:2], signature])


def flipped(text: str) -> str:
    """One stray bit in the last character: the same bytes in another spelling."""
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_".index(text[-1])
    return text[:-1] + "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[last ^ 1]


def swapped() -> str:
    """The token's key in the header, another one's signature."""
    return OTHER.jws({**OTHER.header(), "jwk": HOLDER.jwk}, HOLDER.claims(URL, TOKEN, iat=int(NOW)))


HOSTILE: dict[str, Callable[[], str]] = {
    "empty": lambda: "",
    "dots": lambda: "..",
    "one segment": lambda: "abc",
    "four segments": lambda: made() + ".x",
    "padded": lambda: made() + "=",
    "a space in front": lambda: " " + made(),
    "a line end behind": lambda: made() + "\n",
    "too long": lambda: made(x="a" * 5_000),
    "another spelling of the signature": lambda: flipped(made()),
    "no signature": lambda: unsigned(made()),
    "a cut signature": lambda: made()[:-8],
    "a signature of zeros": lambda: unsigned(made(), b64(b"\0" * 64)),
    "a DER signature": lambda: unsigned(made(), b64(b"\x30\x44\x02\x20" + b"\1" * 68)),
    "alg none": lambda: unsigned(made(header={"alg": "none"})),
    "alg none, signed": lambda: made(header={"alg": "none"}),
    "alg HS256": with_secret,
    "alg RS256": lambda: made(header={"alg": "RS256"}),
    "alg of another curve": lambda: made(header={"alg": "ES384"}),
    "alg EdDSA on an EC key": lambda: made(header={"alg": "EdDSA"}),
    "alg in lower case": lambda: made(header={"alg": "es256"}),
    "alg a list": lambda: made(header={"alg": ["ES256"]}),
    "no alg": lambda: made(header={"alg": None}),
    "no typ": lambda: made(header={"typ": None}),
    "typ JWT": lambda: made(header={"typ": "JWT"}),
    "typ of an access token": lambda: made(header={"typ": "at+jwt"}),
    "no jwk": lambda: made(header={"jwk": None}),
    "jwk a text": lambda: made(header={"jwk": "x"}),
    "a private jwk": lambda: made(header={"jwk": {**HOLDER.jwk, "d": HOLDER.private}}),
    "a symmetric jwk": lambda: made(header={"jwk": {"kty": "oct", "k": "AAAA"}}),
    "an RSA jwk": lambda: made(header={"jwk": {"kty": "RSA", "n": b64(b"\xff" * 300), "e": "AQAB"}}),
    "a jwk of another kind": lambda: made(header={"jwk": {**HOLDER.jwk, "kty": "OKP"}}),
    "a jwk of another curve": lambda: made(header={"jwk": {**HOLDER.jwk, "crv": "P-521"}}),
    "a point off the curve": lambda: made(header={"jwk": {**HOLDER.jwk, "y": b64(b"\1" * 32)}}),
    "a short coordinate": lambda: made(header={"jwk": {**HOLDER.jwk, "x": b64(b"\1" * 31)}}),
    "a long coordinate": lambda: made(header={"jwk": {**HOLDER.jwk, "x": b64(b"\0" * 33)}}),
    "a coordinate in another spelling": lambda: made(header={"jwk": {**HOLDER.jwk, "x": flipped(HOLDER.jwk["x"])}}),
    "a jwk with a place to fetch": lambda: made(header={"jwk": {**HOLDER.jwk, "x5u": "https://evil.example"}}),
    "a jwk for encryption": lambda: made(header={"jwk": {**HOLDER.jwk, "use": "enc"}}),
    "jku": lambda: made(header={"jku": "https://evil.example/keys"}),
    "x5c": lambda: made(header={"x5c": ["AAAA"]}),
    "crit": lambda: made(header={"crit": ["x"]}),
    "b64": lambda: made(header={"b64": False}),
    "two jwk": lambda: raw(b'{"typ":"dpop+jwt","alg":"ES256","jwk":%b,"jwk":%b}' % ((json.dumps(HOLDER.jwk).encode(),) * 2)),
    "a header that is no object": lambda: raw(b"[]"),
    "a header that is no JSON": lambda: raw(b"{"),
    "a deep header": lambda: raw(b'{"a":' * 300 + b"1" + b"}" * 300),
    "another key": lambda: made(OTHER),
    "another key under this one's name": swapped,
    "claims that are no object": lambda: raw(HOLDER.header(), b"[]"),
    "two htu": lambda: raw(HOLDER.header(), b'{"htu":"%b","htu":"https://evil.example"}' % URL.encode()),
    "no jti": lambda: made(jti=None),
    "an empty jti": lambda: made(jti=""),
    "a jti that is a number": lambda: made(jti=7),
    "a long jti": lambda: made(jti="x" * 200),
    "no htm": lambda: made(htm=None),
    "htm of another method": lambda: made(htm="GET"),
    "htm in lower case": lambda: made(htm="post"),
    "htm a list": lambda: made(htm=["POST"]),
    "no htu": lambda: made(htu=None),
    "htu a list": lambda: made(htu=[URL]),
    "no iat": lambda: made(iat=None),
    "iat a text": lambda: made(iat=str(int(NOW))),
    "iat true": lambda: made(iat=True),
    "iat infinite": lambda: raw(HOLDER.header(), b'{"jti":"a","htm":"POST","iat":1e999}'),
    "iat long ago": lambda: made(iat=int(NOW) - 61),
    "iat ahead": lambda: made(iat=int(NOW) + 7),
    "iat in milliseconds": lambda: made(iat=int(NOW) * 1_000),
    "no ath": lambda: made(ath=None),
    "ath of another token": lambda: made(ath=b64(hashlib.sha256(b"other").digest())),
    "ath in hexadecimal": lambda: made(ath=hashlib.sha256(TOKEN.encode()).hexdigest()),
    "ath that is padded": lambda: made(ath=b64(hashlib.sha256(TOKEN.encode()).digest()) + "="),
    "ath beyond ASCII": lambda: made(ath="é"),
}  # fmt: skip
NONCE_FAULTS: dict[str, Any] = {
    "none": None,
    "empty": "",
    "a number": 5,
    "made up": "x" * 48,
    "of another key": NonceSeal(b"j" * 32, CLOCK).current(),
    "a session id": b64(b"\0" * 36),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_proof_is_refused(name: str) -> None:
    assert isinstance(judged(made()), Proof)
    found = judged(HOSTILE[name]())
    assert isinstance(found, ProofRefusal), name
    assert found.error == "invalid_dpop_proof"


@pytest.mark.parametrize("name", NONCE_FAULTS)
def test_without_a_nonce_of_ours_the_client_is_told_to_use_one(name: str) -> None:
    found = judged(made(nonce=NONCE_FAULTS[name]))
    assert isinstance(found, ProofRefusal)
    assert found.error == "use_dpop_nonce"


def test_what_is_not_of_the_tokens_key_costs_no_signature_check() -> None:
    before = JUDGE.signature_checks
    judged(made(OTHER))
    assert JUDGE.signature_checks == before
    judged(made())
    assert JUDGE.signature_checks == before + 1


def test_a_nonce_is_renewed_runs_out_and_is_known_to_all_who_have_the_key() -> None:
    clock = FakeClock()
    one, two = NonceSeal(b"k" * 32, clock), NonceSeal(b"k" * 32, clock)
    first = one.current()
    assert one.current() == first
    made_at = two.opened(first)
    assert made_at == pytest.approx(clock.now(), abs=0.01)
    clock.advance(module.NONCE_FRESH_SECONDS + 1)
    assert one.current() != first
    judge = ProofJudge(two, clock)
    for wait, fine in ((module.NONCE_SECONDS - module.NONCE_FRESH_SECONDS - 2, True), (2, False)):
        clock.advance(wait)
        assert isinstance(judged(made(iat=int(clock.now()), nonce=first), judge), Proof) is fine


def test_where_marks_begin_nothing_older_is_taken_without_a_fresh_nonce() -> None:
    clock = FakeClock()
    nonces = NonceSeal(b"k" * 32, clock)
    old = nonces.current()
    clock.advance(10)
    judge = ProofJudge(nonces, clock, requires_nonce=False, since=clock.now())
    clock.advance(1)
    for text in (made(iat=int(clock.now()) - 3, nonce=None), made(iat=int(clock.now()), nonce=old)):
        found = judged(text, judge)
        assert isinstance(found, ProofRefusal) and found.error == "use_dpop_nonce"
    fresh = NonceSeal(b"k" * 32, clock).current()
    assert isinstance(judged(made(iat=int(clock.now()), nonce=fresh), judge), Proof)
    clock.advance(10)
    assert isinstance(judged(made(iat=int(clock.now()), nonce=None), judge), Proof)


def test_a_token_endpoint_needs_no_ath_and_takes_any_key() -> None:
    assert isinstance(judged(made(OTHER, ath=None), token=None, key=""), Proof)


def test_equal_jti_of_two_keys_are_two_proofs() -> None:
    one, two = judged(made(jti="a")), judged(made(OTHER, jti="a"), key=OTHER.jkt)
    again = judged(made(jti="a"))
    assert isinstance(one, Proof) and isinstance(two, Proof) and isinstance(again, Proof)
    assert one.digest != two.digest
    assert one.digest == again.digest


@settings(max_examples=300, deadline=None)
@given(
    text=st.one_of(
        st.text(max_size=300), st.from_regex(r"[A-Za-z0-9_-]{0,60}\.[A-Za-z0-9_-]{0,60}\.[A-Za-z0-9_-]{0,60}")
    )
)
def test_no_text_makes_the_judge_fail(text: str) -> None:
    assert isinstance(judged(text), ProofRefusal)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(
    header=st.dictionaries(st.sampled_from(["typ", "alg", "jwk", "kid", "crit"]), JSON, max_size=3),
    claims=st.dictionaries(
        st.sampled_from(["jti", "htm", "htu", "iat", "ath", "nonce"]), JSON, min_size=1, max_size=4
    ),
)
def test_signed_claims_of_any_shape_are_judged_and_only_good_ones_taken(header: Any, claims: Any) -> None:
    whole = {**HOLDER.claims(URL, TOKEN, iat=int(NOW), nonce=NONCES.current()), **claims}
    found = judged(HOLDER.jws({**HOLDER.header(), **header}, whole))
    if isinstance(found, Proof):  # what was changed must then be as good as what it replaced
        assert not {"typ", "alg", "jwk", "crit"} & set(header)
        assert not {"htm", "ath", "nonce", "htu"} & set(claims)


@settings(max_examples=200, deadline=None)
@given(place=st.integers(min_value=0), bit=st.integers(0, 7))
def test_no_flipped_bit_goes_unnoticed(place: int, bit: int) -> None:
    text = bytearray(made().encode())
    text[place % len(text)] ^= 1 << bit
    found = judged(bytes(text).decode("latin-1"))
    assert isinstance(found, ProofRefusal)


def test_the_thumbprint_is_that_of_the_rfc() -> None:
    # RFC 9449 §4.1, §6.1: the example's key and its jkt.
    jwk = {
        "kty": "EC", "crv": "P-256",
        "x": "l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs",
        "y": "9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA",
    }  # fmt: skip
    assert module._thumbprint(dict(sorted(jwk.items()))) == "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
    assert base64.urlsafe_b64decode(jwk["x"] + "=")
