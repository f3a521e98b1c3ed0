from __future__ import annotations

import base64
import hashlib
import json
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

from doorward.base.errors import OperatorError, UpstreamError
from doorward.identity import oauth_client as oauth
from doorward.identity.oauth_client import Attempt, Client, ResponseRefusedError, TokenRefusedError
from doorward.identity.oauth_metadata import ServerMetadata

AT = ServerMetadata(
    "https://as.example", "https://as.example/t", "https://as.example/a?p=1", has_s256=True, says_iss=True
)
ATTEMPT = Attempt(
    ("t", "i", "s", "c"),
    "b",
    "up",
    AT.issuer,
    True,
    "me",
    "v",
    "https://d.example/cb",
    "https://r.example",
    (),
)


def read(told: Any, status: int = 200, kind: str = "application/json") -> oauth.Token:
    return oauth.read_token(status, kind, json.dumps(told).encode(), 1_000.0)


def test_a_token_is_read() -> None:
    token = read(
        {"access_token": "x", "token_type": "bearer", "expires_in": 60, "refresh_token": "r", "scope": "a b"}
    )
    assert (token.access, token.expires_at, token.refresh, token.scopes) == ("x", 1_060.0, "r", ("a", "b"))
    assert read({"access_token": "x", "token_type": "Bearer"}).expires_at == 1_000.0 + oauth.UNSAID_SECONDS
    assert (
        read({"access_token": "x", "token_type": "Bearer", "expires_in": 1e12}).expires_at
        == 1_000.0 + oauth.LIFETIME_SECONDS
    )
    assert "x" not in repr(token).replace("expires", "")


@pytest.mark.parametrize(
    "told",
    [
        [], {}, None, {"access_token": "x"}, {"access_token": "", "token_type": "Bearer"},
        {"access_token": "x", "token_type": "DPoP"}, {"access_token": "x", "token_type": "mac"},
        {"access_token": "x", "token_type": "N_A"}, {"access_token": "a b", "token_type": "Bearer"},
        {"access_token": "a\r\nEvil: 1", "token_type": "Bearer"}, {"access_token": "é", "token_type": "Bearer"},
        {"access_token": "x" * 20_000, "token_type": "Bearer"}, {"access_token": "x", "token_type": "Bearer", "expires_in": 0},
        {"access_token": "x", "token_type": "Bearer", "expires_in": True},
        {"access_token": "x", "token_type": "Bearer", "expires_in": [1]},
        {"access_token": "x", "token_type": "Bearer", "refresh_token": 3},
        {"access_token": "x", "token_type": "Bearer", "refresh_token": "a\nb"},
    ],
)  # fmt: skip
def test_an_answer_that_is_no_usable_token_is_refused(told: Any) -> None:
    with pytest.raises(UpstreamError) as caught:
        read(told)
    assert caught.value.code == "oauth-answer"


def test_errors_keep_only_known_words() -> None:
    for error, kept in (
        ("invalid_grant", "invalid_grant"),
        ("<script>hunter2</script>", ""),
        (["x"], ""),
        (None, ""),
    ):
        with pytest.raises(TokenRefusedError) as caught:
            read({"error": error, "error_description": "hunter2"}, 400)
        assert caught.value.error == kept
        assert "hunter2" not in str(caught.value) + caught.value.detail


@given(st.binary(max_size=200), st.sampled_from([200, 201, 400, 404]))
def test_no_body_breaks_the_reader(body: bytes, status: int) -> None:
    with pytest.raises(UpstreamError):
        oauth.read_token(status, "application/json", body, 0.0)


@pytest.mark.parametrize(
    ("client", "methods", "method"),
    [
        (Client("a", b"s"), ("client_secret_basic",), "client_secret_basic"),
        (Client("a", b"s"), ("client_secret_post", "none"), "client_secret_post"),
        (Client("a", b"s"), (), "client_secret_basic"),
        (Client("a"), ("client_secret_basic",), "none"),
        (Client("a", private_key=b"k"), (), "private_key_jwt"),
        (Client("a", b"s", auth="client_secret_post"), ("client_secret_basic",), "client_secret_post"),
    ],
)
def test_how_a_client_proves_itself(client: Client, methods: tuple[str, ...], method: str) -> None:
    assert oauth.chosen_method(client, methods) == method


@given(st.text(min_size=1, max_size=30), st.binary(max_size=30))
def test_basic_encodes_both_parts(name: str, secret: bytes) -> None:
    fields, body = oauth.authenticate(
        Client(name, secret, auth="client_secret_basic"), [("a", "b")], methods=(), audience="", now=0.0
    )
    told = base64.b64decode(dict(fields)["Authorization"].removeprefix("Basic ")).decode("ascii")
    assert told.count(":") == 1
    assert body == b"a=b"


@pytest.mark.parametrize(
    "key", [ECKey.generate_key("P-256"), ECKey.generate_key("P-384"), RSAKey.generate_key(2048)]
)
def test_assertions_verify_and_are_for_one_server_once(key: Any) -> None:
    client = Client("me", private_key=key.as_pem(private=True), key_id="k")
    one, two = (oauth.client_assertion(client, "https://as.example", 1_000.0) for _ in range(2))
    decoded = jwt.decode(one, key, algorithms=["ES256", "ES384", "RS256"])
    claims = decoded.claims
    assert (claims["iss"], claims["sub"], claims["aud"]) == ("me", "me", "https://as.example")
    assert claims["exp"] - claims["iat"] == oauth.ASSERTION_SECONDS
    assert claims["jti"] != jwt.decode(two, key, algorithms=["ES256", "ES384", "RS256"]).claims["jti"]


@pytest.mark.parametrize(
    "pem", [b"", b"x", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_what_is_no_key_is_the_operators_to_mend(pem: bytes) -> None:
    with pytest.raises(OperatorError) as caught:
        oauth.client_assertion(Client("me", private_key=pem), "a", 0.0)
    assert caught.value.code == "oauth-client-key"


def test_a_code_flow_begins_with_fresh_state_and_s256() -> None:
    url, state, verifier = oauth.begin_code_flow(
        AT, "me", "https://d.example/cb", ("a", "b"), "https://r.example"
    )
    query = parse_qs(urlsplit(url).query)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
    assert query == {
        "p": ["1"], "response_type": ["code"], "client_id": ["me"], "redirect_uri": ["https://d.example/cb"], "state": [state],
        "code_challenge": [challenge], "code_challenge_method": ["S256"], "scope": ["a b"], "resource": ["https://r.example"],
    }  # fmt: skip
    assert len({oauth.begin_code_flow(AT, "me", "x", (), "")[1] for _ in range(20)}) == 20


@pytest.mark.parametrize("change", [{"has_s256": False}, {"authorization_endpoint": ""}])
def test_a_server_without_s256_is_refused_before_anything_is_sent(change: dict[str, Any]) -> None:
    import msgspec

    with pytest.raises(UpstreamError) as caught:
        oauth.begin_code_flow(msgspec.structs.replace(AT, **change), "me", "x", (), "")
    assert caught.value.code == "oauth-metadata"


@pytest.mark.parametrize(
    "query",
    [
        "code=c", "code=c&iss=https://as.example/", "code=c&iss=https://AS.example", "code=c&iss=https://as.example:443",
        "code=c&iss=https%3A%2F%2Fas.example%2F", "iss=https://evil.example&error=access_denied&error_description=pwned",
        "iss=https://as.example&iss=https://as.example&code=c", "iss=https://as.example&code=a&code=b", "iss=https://as.example",
        "iss=https://as.example&code=", "error=access_denied",
    ],
)  # fmt: skip
def test_a_response_of_another_issuer_or_without_one_is_not_acted_on(query: str) -> None:
    with pytest.raises(ResponseRefusedError) as caught:
        oauth.read_response(parse_qsl(query, keep_blank_values=True), ATTEMPT)
    assert "pwned" not in str(caught.value) + caught.value.detail


def test_responses_that_count() -> None:
    import msgspec

    assert oauth.read_response([("code", "c"), ("iss", AT.issuer)], ATTEMPT) == "c"
    silent = msgspec.structs.replace(ATTEMPT, says_iss=False)
    assert oauth.read_response([("code", "c")], silent) == "c"
    with pytest.raises(ResponseRefusedError):
        oauth.read_response([("code", "c"), ("iss", "https://evil.example")], silent)
    with pytest.raises(TokenRefusedError):
        oauth.read_response([("error", "access_denied"), ("iss", AT.issuer)], ATTEMPT)


def test_scopes_are_the_operators_then_the_challenges_then_all() -> None:
    assert oauth.wanted_scopes(("a",), ("b",), ("c",)) == ("a",)
    assert oauth.wanted_scopes((), ("b",), ("c",)) == ("b",)
    assert oauth.wanted_scopes((), (), ("c",)) == ("c",)
    assert oauth.wanted_scopes((), (), ()) == ()
