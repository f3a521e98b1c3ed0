"""Identity assertions of an enterprise's provider, each bad in one way (AS-37)."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

import pytest
from joserfc import jws
from joserfc.jwk import ECKey
from tests.unit.identity.test_grants import Rows

from doorward.identity.clients import ID_JAG, Client
from doorward.identity.id_jag import check_client, read_id_jag
from doorward.identity.oauth_forms import OAuthRefusal, read_form

NOW = 1_800_000_000.0
KEY = ECKey.generate_key("P-256", private=True)
OTHER = ECKey.generate_key("P-256", private=True)
JWKS = {"keys": [{**KEY.as_dict(private=False), "kid": "one"}]}
GATE, IDP = "https://gate.example", "https://idp.example"
RESOURCES = {f"{GATE}/notes/mcp", f"{GATE}/mcp"}
ROBOT = Client("robot", "Robot", "settings", grants=(ID_JAG,), jwks=JWKS)
GOOD = {
    "iss": IDP,
    "sub": "carol",
    "aud": GATE,
    "client_id": "robot",
    "jti": "1",
    "resource": f"{GATE}/notes/mcp",
    "iat": NOW,
    "exp": NOW + 60,
}


def signed(key: Any = KEY, typ: Any = "oauth-id-jag+jwt", kid: str = "one", **changes: Any) -> str:
    claims = {name: value for name, value in {**GOOD, **changes}.items() if value is not ...}
    header = {"alg": "ES256", "kid": kid, **({} if typ is ... else {"typ": typ})}
    return jws.serialize_compact(header, json.dumps(claims), key, ["ES256"])


def read(assertion: str, store: Rows | None = None, **form: str) -> tuple[dict[str, Any], str]:
    return read_id_jag(
        read_form(urlencode({"assertion": assertion, **form})),
        JWKS,
        ROBOT,
        provider=IDP,
        issuer=GATE,
        algorithms=("ES256",),
        resources=RESOURCES,
        store=store or Rows(),
        now=NOW,
    )


def test_a_good_assertion_is_for_one_user_and_one_resource_once() -> None:
    claims, resource = read(signed())
    assert (claims["sub"], resource) == ("carol", f"{GATE}/notes/mcp")
    assert read(signed(typ="application/oauth-id-jag+jwt"))[1] == resource
    both = signed(resource=[f"{GATE}/notes/mcp", f"{GATE}/mcp"])
    assert read(both, resource=f"{GATE}/mcp")[1] == f"{GATE}/mcp"
    store = Rows()
    read(signed(), store)
    with pytest.raises(OAuthRefusal) as caught:
        read(signed(), store)
    assert caught.value.reason == "ID-JAG: used before"


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("an ID token", {"typ": "JWT"}, "invalid_grant"),
    ("an access token", {"typ": "at+jwt"}, "invalid_grant"),
    ("no type", {"typ": ...}, "invalid_grant"),
    ("another key", {"key": OTHER}, "invalid_grant"),
    ("unknown key", {"kid": "two"}, "invalid_grant"),
    ("another issuer", {"iss": "https://evil.example"}, "invalid_grant"),
    ("issuer with a slash", {"iss": IDP + "/"}, "invalid_grant"),
    ("no issuer", {"iss": ...}, "invalid_grant"),
    ("another audience", {"aud": "https://other.example"}, "invalid_grant"),
    ("the token endpoint as audience", {"aud": f"{GATE}/oauth/token"}, "invalid_grant"),
    ("two audiences", {"aud": [GATE, "https://other.example"]}, "invalid_grant"),
    ("no audience", {"aud": ...}, "invalid_grant"),
    ("another client", {"client_id": "desk"}, "invalid_grant"),
    ("no client", {"client_id": ...}, "invalid_grant"),
    ("expired", {"exp": NOW - 60}, "invalid_grant"),
    ("no end", {"exp": ...}, "invalid_grant"),
    ("a long life", {"exp": NOW + 4_000}, "invalid_grant"),
    ("from the future", {"iat": NOW + 300}, "invalid_grant"),
    ("no jti", {"jti": ...}, "invalid_grant"),
    ("another resource", {"resource": "https://other.example/mcp"}, "invalid_target"),
    ("no resource", {"resource": ...}, "invalid_target"),
    ("two resources", {"resource": [f"{GATE}/notes/mcp", f"{GATE}/mcp"]}, "invalid_target"),
    ("a number as resource", {"resource": 1}, "invalid_target"),
]


@pytest.mark.parametrize(
    ("name", "changes", "error"), BAD, ids=lambda one: one if isinstance(one, str) else ""
)
def test_an_assertion_that_is_bad_in_one_way_gives_nothing_and_uses_nothing_up(
    name: str, changes: dict[str, Any], error: str
) -> None:
    store = Rows()
    with pytest.raises(OAuthRefusal) as caught:
        read(signed(**changes), store)
    assert caught.value.error == error
    assert store.marks == {}


def test_the_request_may_not_ask_for_more_than_the_assertion_says() -> None:
    with pytest.raises(OAuthRefusal) as caught:
        read(signed(), resource=f"{GATE}/mcp")
    assert caught.value.error == "invalid_target"
    with pytest.raises(OAuthRefusal):
        read("")


@pytest.mark.parametrize(
    "client",
    [Client("robot", "R", "settings", jwks=JWKS), Client("robot", "R", "settings", grants=(ID_JAG,))],
)
def test_only_a_proven_client_that_the_operator_allows_comes_this_way(client: Client) -> None:
    check_client(ROBOT)
    with pytest.raises(OAuthRefusal):
        check_client(client)
