"""What an issuer publishes about itself, read strictly: names to the letter, no private keys, nothing twice."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.identity.foreign_kit import Hand

from doorward.identity.discovery import IssuerMetadata, metadata_urls, read_key_set, read_metadata

ISSUER = "https://idp.test/realms/r"
GOOD = {"issuer": ISSUER, "jwks_uri": "https://idp.test/certs", "code_challenge_methods_supported": ["S256"]}


def read(changes: dict[str, Any], issuer: str = ISSUER) -> IssuerMetadata | str:
    document = {name: value for name, value in (GOOD | changes).items() if value is not ...}
    return read_metadata(msgspec.json.encode(document), issuer)


def test_the_places_are_those_of_the_specification_in_its_order() -> None:
    assert (
        metadata_urls("https://idp.test")
        == metadata_urls("https://idp.test/")
        == [
            "https://idp.test/.well-known/oauth-authorization-server",
            "https://idp.test/.well-known/openid-configuration",
        ]
    )
    assert (
        metadata_urls(ISSUER)
        == metadata_urls(ISSUER + "/")
        == [
            "https://idp.test/.well-known/oauth-authorization-server/realms/r",
            "https://idp.test/.well-known/openid-configuration/realms/r",
            "https://idp.test/realms/r/.well-known/openid-configuration",
        ]
    )


def test_good_metadata_is_taken() -> None:
    found = read({"introspection_endpoint": "https://idp.test/i", "unknown": [1, {"a": None}]})
    assert isinstance(found, IssuerMetadata)
    assert (found.jwks_uri, found.introspection_endpoint) == ("https://idp.test/certs", "https://idp.test/i")
    assert found.challenge_methods == ("S256",)
    silent = read({"code_challenge_methods_supported": ...})
    assert isinstance(silent, IssuerMetadata) and silent.challenge_methods is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"issuer": ISSUER + "/"}, "another trailing slash"),
        ({"issuer": "https://evil.test"}, "another issuer"),
        ({"issuer": ISSUER.upper()}, "another issuer"),
        ({"issuer": ...}, "another issuer"),
        ({"issuer": [ISSUER]}, "another issuer"),
        ({"issuer": None}, "another issuer"),
        ({"jwks_uri": ...}, "no jwks_uri"),
        ({"jwks_uri": 7}, "no jwks_uri"),
        ({"jwks_uri": "a\nb"}, "no jwks_uri"),
        ({"jwks_uri": "a" * 5_000}, "no jwks_uri"),
    ],
)
def test_metadata_of_somebody_else_or_of_no_use_is_refused(changes: dict[str, Any], words: str) -> None:
    found = read(changes)
    assert isinstance(found, str) and words in found


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"null", b"<html>", b'{"issuer":"https://evil.test","issuer":"' + ISSUER.encode() + b'","jwks_uri":"x"}', b"{" * 100,
     b'{"a":"' + b"x" * 300_000 + b'"}', b"\xff\xfe"],
)  # fmt: skip
def test_what_is_not_one_strict_object_is_refused(body: bytes) -> None:
    assert isinstance(read_metadata(body, ISSUER), str)
    assert isinstance(read_key_set(body), str)


def test_a_key_set_loses_what_is_private_in_it() -> None:
    good, leaked = Hand(kid="good"), Hand(kid="leaked")
    found = read_key_set(
        msgspec.json.encode(
            {"keys": [good.public(), leaked.private(), "text", {"kty": "oct", "k": "c2VjcmV0"}]}
        )
    )
    assert isinstance(found, list)
    assert [key.get("kid") for key in found] == ["good"]
    assert isinstance(read_key_set(msgspec.json.encode({"keys": [leaked.private()]})), str)
    assert isinstance(read_key_set(msgspec.json.encode({"keys": [good.public()] * 65})), str)
    assert isinstance(read_key_set(b'{"keys":{}}'), str)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_crash_the_readers(body: bytes) -> None:
    read_metadata(body, ISSUER)
    read_key_set(body)
