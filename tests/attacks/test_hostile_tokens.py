"""A table of hostile tokens: each is refused with its status, reaches no server and leaves one record; its honest
twin, made by the same hand in the same shape, gets through."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from joserfc import jws
from joserfc.jwk import ECKey

from doorward.identity.foreign_judge import ForeignJudge, KnownKeys
from doorward.identity.keys import KeySet
from doorward.identity.trust import TrustedIssuer
from tests.talks.talk import URL, Ear, PlayedServer, Talk

RESOURCE = f"{URL}/time/mcp"
STRANGER = KeySet.generate()
HOUR = 3_600
ISSUER = URL


def _b64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _claims(talk: Talk, **changes: Any) -> dict[str, Any]:
    """Good claims, changed; numbers of ``iat``, ``nbf`` and ``exp`` count from now, ``...`` leaves a member out."""
    now = int(talk.clock.now())
    found: dict[str, Any] = {"iss": ISSUER, "sub": "alice", "aud": RESOURCE, "client_id": "cli", "jti": "j-1"}
    found |= {"iat": 0, "nbf": 0, "exp": HOUR, "scope": "mcp", "roles": ["user"], "doorward_created": True}
    found |= changes
    for name in ("iat", "nbf", "exp"):
        if type(found[name]) is int:
            found[name] += now
    return {name: value for name, value in found.items() if value is not ...}


def _sign(keys: KeySet, header: bytes, payload: bytes) -> str:
    """An ES256 signature over any header and payload, however odd."""
    start = f"{_b64(header)}.{_b64(payload)}"
    private = ECKey.import_key(keys.current.stored())
    return f"{start}.{_b64(jws.JWSRegistry.algorithms['ES256'].sign(start.encode(), private))}"


def _token(
    talk: Talk, header: dict[str, Any] | None = None, keys: KeySet | None = None, **changes: Any
) -> str:
    """A token signed right with the gateway's key unless ``keys`` says otherwise."""
    kid = talk.keys.current.kid
    members = {"typ": "at+jwt", "alg": "ES256", "kid": kid} | (header or {})
    members = {name: value for name, value in members.items() if value is not ...}
    content = msgspec.json.encode(_claims(talk, **changes))
    return _sign(keys or talk.keys, msgspec.json.encode(members), content)


def _hmac(talk: Talk) -> str:
    """The public key taken for a shared secret (RFC 8725 §2.1)."""
    header = msgspec.json.encode({"typ": "at+jwt", "alg": "HS256", "kid": talk.keys.current.kid})
    start = f"{_b64(header)}.{_b64(msgspec.json.encode(_claims(talk)))}"
    secret = msgspec.json.encode(talk.keys.current.public())
    return f"{start}.{_b64(hmac.new(secret, start.encode(), hashlib.sha256).digest())}"


def _twice(talk: Talk, more: bytes) -> str:
    """A payload with a member twice: a lenient reader keeps the last."""
    header = msgspec.json.encode({"typ": "at+jwt", "alg": "ES256", "kid": talk.keys.current.kid})
    return _sign(talk.keys, header, msgspec.json.encode(_claims(talk))[:-1] + b"," + more + b"}")


def _cut(talk: Talk, change: Callable[[list[str]], list[str]]) -> str:
    return ".".join(change(_token(talk).split(".")))


CLAIMS: dict[str, dict[str, Any]] = {
    "another issuer": {"iss": "https://idp.example"},
    "issuer with a slash": {"iss": URL + "/"},
    "issuer in capitals": {"iss": URL.upper()},
    "issuer as a list": {"iss": [URL]},
    "no issuer": {"iss": ...},
    "T-10 audience of another server": {"aud": f"{URL}/tickets/mcp"},
    "audience of the whole gateway": {"aud": f"{URL}/mcp"},
    "audience is the bare host": {"aud": URL},
    "audience with a slash": {"aud": RESOURCE + "/"},
    "audience with a query": {"aud": RESOURCE + "?a"},
    "audience in capitals": {"aud": RESOURCE.upper()},
    "audience star": {"aud": "*"},
    "two audiences": {"aud": [RESOURCE, "https://other.example"]},
    "the same audience twice": {"aud": [RESOURCE, RESOURCE]},
    "no audience in a list": {"aud": []},
    "audience in a list in a list": {"aud": [[RESOURCE]]},
    "no audience": {"aud": ...},
    "audience null": {"aud": None},
    "no subject": {"sub": ...},
    "empty subject": {"sub": ""},
    "subject as a number": {"sub": 1},
    "subject as a list": {"sub": ["alice"]},
    "huge subject": {"sub": "a" * 2_000},
    "no client": {"client_id": ...},
    "client as an object": {"client_id": {"id": "cli"}},
    "no token id": {"jti": ...},
    "expired": {"iat": -2 * HOUR, "nbf": -2 * HOUR, "exp": -1},
    "expires now": {"iat": -HOUR, "nbf": -HOUR, "exp": 0},
    "no expiry": {"exp": ...},
    "expiry as a text": {"exp": "9999999999"},
    "expiry true": {"exp": True},
    "expiry null": {"exp": None},
    "expiry in a list": {"exp": [HOUR]},
    "expiry before issue": {"iat": 3, "exp": 2},
    "lives longer than a day": {"exp": 24 * HOUR + 1},
    "lives for ever": {"exp": 10**12},
    "no time of issue": {"iat": ...},
    "issued in the future": {"iat": 60},
    "negative time of issue": {"iat": -1.0e12},
    "not valid yet": {"nbf": 60},
    "not before as a text": {"nbf": "0"},
    "bound to a key": {"cnf": {"jkt": "x"}},
    "bound to a certificate": {"cnf": {"x5t#S256": "x"}},
    "roles as a text": {"roles": "user"},
    "roles as numbers": {"roles": [1]},
    "roles as an object": {"roles": {"user": True}},
    "too many roles": {"roles": ["user"] * 100},
    "scope as a list": {"scope": ["mcp"]},
    "account that does not exist": {"doorward_created": ...},
    "account made up in other words": {"doorward_created": "true"},
}
HEADERS: dict[str, dict[str, Any]] = {
    "T-12 algorithm none": {"alg": "none"},
    "algorithm None": {"alg": "None"},
    "no algorithm": {"alg": ...},
    "algorithm RS256": {"alg": "RS256"},
    "algorithm in small letters": {"alg": "es256"},
    "algorithm as a list": {"alg": ["ES256"]},
    "no key named": {"kid": ...},
    "unknown key": {"kid": "other"},
    "key as a path": {"kid": "../../../dev/null"},
    "key as a query": {"kid": "' UNION SELECT 'k"},
    "key as a list": {"kid": ["k"]},
    "brings its key": {"jwk": STRANGER.current.public()},
    "says where its key is": {"jku": "https://evil.example/jwks"},
    "says where its certificate is": {"x5u": "https://evil.example/x"},
    "brings its certificate": {"x5c": ["MII"]},
    "critical extension": {"crit": ["exp"]},
    "payload not encoded": {"b64": False, "crit": ["b64"]},
    "compressed": {"zip": "DEF"},
    "identity token": {"typ": "JWT"},
    "no type": {"typ": ...},
    "logout token": {"typ": "logout+jwt"},
    "header over the cap": {"pad": "x" * 2_000},
}
FORMS: dict[str, Callable[[Talk], str]] = {
    "signed by a stranger under our key's name": lambda talk: _token(talk, keys=STRANGER),
    "stranger's key brought along": lambda talk: _token(
        talk, {"jwk": STRANGER.current.public(), "kid": STRANGER.current.kid}, STRANGER
    ),
    "public key as a shared secret": _hmac,
    "two subjects": lambda talk: _twice(talk, b'"sub":"root"'),
    "two audiences in two members": lambda talk: _twice(talk, b'"aud":"x"'),
    "claim written with an escape": lambda talk: _twice(talk, b'"\\u0073ub":"root"'),
    "no signature": lambda talk: _cut(talk, lambda parts: [*parts[:2], ""]),
    "two parts": lambda talk: _cut(talk, lambda parts: parts[:2]),
    "five parts": lambda talk: _cut(talk, lambda parts: [*parts, "a", "b"]),
    "payload exchanged": lambda talk: _cut(
        talk, lambda parts: [parts[0], _b64(msgspec.json.encode(_claims(talk, sub="root"))), parts[2]]
    ),
    "padded": lambda talk: _token(talk) + "==",
    "over the cap": lambda talk: "a" * 20_000,
    "a word": lambda talk: "admin",
}
TABLE: dict[str, Callable[[Talk], str]] = {
    **{name: lambda talk, c=changes: _token(talk, **c) for name, changes in CLAIMS.items()},
    **{name: lambda talk, h=header: _token(talk, h) for name, header in HEADERS.items()},
    **FORMS,
}


def _call(talk: Talk, token: str) -> Ear:
    return talk.modern("time", "tools/call", {"name": "echo", "arguments": {}}, token=token)


def test_the_table_is_long_enough() -> None:
    assert len(TABLE) >= 60


# What is hostile from our own hand and lawful from another issuer's: it has no accounts here, and other claims are optional there.
LAWFUL_ELSEWHERE = {
    "account that does not exist", "account made up in other words", "no token id", "roles as a text", "too many roles",
    "scope as a list",
}  # fmt: skip
IDP = "https://idp.test"


def _external(talk: Talk) -> ForeignJudge:
    """Another issuer that signs with the talk's keys, and that does not know any other key when it is asked."""
    known = {IDP: KnownKeys(talk.keys.jwks(), talk.clock.now() + HOUR)}
    return ForeignJudge(
        [TrustedIssuer(IDP)], known, talk.clock, ask=lambda topic, payload, then: then("unknown")
    )


def _elsewhere(talk: Talk, make: Callable[[Talk], str]) -> str:
    """A token of the table as the other issuer would have made it."""
    global ISSUER  # noqa: PLW0603 - the table's rows are made by functions of the talk alone
    ISSUER = IDP
    try:
        return make(talk)
    finally:
        ISSUER = URL


@pytest.mark.parametrize("name", TABLE)
def test_a_hostile_token_of_an_external_issuer_reaches_nothing(name: str) -> None:
    server = PlayedServer()
    talk = Talk({"time": server}, judge_of=_external)
    token = _elsewhere(talk, TABLE[name])
    ear = _call(talk, token)
    if name in LAWFUL_ELSEWHERE:
        assert ear.status == 200, ear.body
        return
    assert ear.status == 401, ear.body
    assert 'error="invalid_token"' in (ear.field("WWW-Authenticate") or "")
    assert server.methods() == []
    assert [entry["control"] for entry in talk.journal.entries] == ["check-token"]
    assert token.encode() not in bytes(ear.body) + msgspec.json.encode(talk.journal.entries)
    assert _call(talk, _elsewhere(talk, _token)).status == 200
    assert "tools/call" in server.methods()
    assert _call(talk, _token(talk)).status == 401  # what our own hand signs counts for nothing then


@pytest.mark.parametrize("name", TABLE)
def test_a_hostile_token_reaches_nothing_and_leaves_one_record(name: str) -> None:
    server = PlayedServer()
    talk = Talk({"time": server})
    token = TABLE[name](talk)
    ear = _call(talk, token)
    assert ear.status == 401, ear.body
    assert 'error="invalid_token"' in (ear.field("WWW-Authenticate") or "")
    assert server.methods() == []
    assert [entry["control"] for entry in talk.journal.entries] == ["check-token"]
    assert token.encode() not in bytes(ear.body) + msgspec.json.encode(talk.journal.entries)
    twin = _call(talk, _token(talk))  # the same hand, the same shape, signed right
    assert twin.status == 200, twin.body
    assert "tools/call" in server.methods()


@pytest.mark.parametrize("name", FORMS)
def test_without_the_control_a_hostile_token_would_reach_the_server(name: str) -> None:
    server = PlayedServer()
    talk = Talk({"time": server}, off=("check-token",))
    assert _call(talk, FORMS[name](talk)).status == 200
    assert "tools/call" in server.methods()
