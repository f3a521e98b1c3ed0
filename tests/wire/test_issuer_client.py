"""Asking an issuer over real sockets: what it names is judged like any other URL, and no redirect is followed (T-21)."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from doorward.adapters.guarded_http import GuardedHttp
from doorward.adapters.issuer_client import IssuerClient
from doorward.base.addresses import NetworkRules
from doorward.base.errors import DoorwardError
from doorward.base.secret import Secret
from tests.unit.identity.foreign_kit import Hand

from .tls_kit import RawServer

pytestmark = pytest.mark.anyio

HAND = Hand()


def answer(value: Any, status: int = 200, kind: str = "application/json", more: str = "") -> bytes:
    body = value if isinstance(value, bytes) else msgspec.json.encode(value)
    return (
        f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\n{more}Content-Length: {len(body)}\r\n\r\n".encode()
        + body
    )


class Issuer:
    """An issuer on loopback whose answers a test sets by path."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes] = {}
        self.server = RawServer(lambda head: self.pages.get(head.split(b" ")[1].decode(), answer({}, 404)))

    async def start(self) -> Issuer:
        await self.server.start()
        self.url = f"http://127.0.0.1:{self.server.port}"
        self.pages["/.well-known/openid-configuration"] = answer(
            {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}
        )
        self.pages["/keys"] = answer(HAND.jwks(), kind="application/jwk-set+json; charset=utf-8")
        return self

    def client(self) -> IssuerClient:
        rules = NetworkRules.of([f"127.0.0.1:{self.server.port}"], plain_loopback=True)
        return IssuerClient(GuardedHttp(rules), self.url)

    def names(self, **members: Any) -> None:
        self.pages["/.well-known/openid-configuration"] = answer(
            {"issuer": self.url, "jwks_uri": f"{self.url}/keys"} | members
        )


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    found = await Issuer().start()
    yield found
    await found.server.stop()


async def keys_of(issuer: Issuer) -> list[dict[str, Any]]:
    return (await issuer.client().keys("", "", wants_introspection=False)).keys


async def code_of(asking: Any) -> str:
    with pytest.raises(DoorwardError) as caught:
        await asking
    return caught.value.code


async def test_keys_come_by_way_of_the_metadata_or_straight_from_the_settings(issuer: Issuer) -> None:
    assert [key["kid"] for key in await keys_of(issuer)] == ["k1"]
    asked = [head.split(b" ")[1] for head in issuer.server.heads]
    assert asked == [
        b"/.well-known/oauth-authorization-server",
        b"/.well-known/openid-configuration",
        b"/keys",
    ]
    found = await issuer.client().keys(f"{issuer.url}/keys", "", wants_introspection=False)
    assert len(found.keys) == 1 and len(issuer.server.heads) == 4


@pytest.mark.parametrize(
    "jwks_uri",
    ["http://169.254.169.254/latest/meta-data/", "https://169.254.169.254/", "http://127.0.0.1:1/", "https://127.1/", "https://10.0.0.1/",
     "file:///etc/passwd", "https://[::ffff:127.0.0.1]/", "https://user@idp.test/", "http://localhost/"],
)  # fmt: skip
async def test_metadata_cannot_lead_the_way_inside(issuer: Issuer, jwks_uri: str) -> None:
    issuer.names(jwks_uri=jwks_uri)
    assert await code_of(keys_of(issuer)) == "fetch-refused"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed_not_even_to_the_issuer_itself(issuer: Issuer, status: int) -> None:
    issuer.pages["/moved"] = issuer.pages["/keys"]
    issuer.pages["/keys"] = answer({}, status, more=f"Location: {issuer.url}/moved\r\n")
    assert await code_of(keys_of(issuer)) == "issuer-keys"
    issuer.pages["/.well-known/openid-configuration"] = answer(
        {}, status, more=f"Location: {issuer.url}/other\r\n"
    )
    assert await code_of(keys_of(issuer)) == "issuer-metadata"
    assert not any(b"/moved" in head or b"/other" in head for head in issuer.server.heads)


WRONG = {
    "metadata of another issuer": {
        "/.well-known/openid-configuration": answer({"issuer": "https://evil.test", "jwks_uri": "x"})
    },
    "metadata is a page": {"/.well-known/openid-configuration": answer(b"<html>")},
    "metadata broke": {
        "/.well-known/oauth-authorization-server": answer({}, 500),
        "/.well-known/openid-configuration": answer({}, 500),
    },
    "no metadata": {"/.well-known/openid-configuration": answer({}, 404)},
    "keys are a page": {"/keys": answer(b"<html>", kind="text/html")},
    "keys are text": {"/keys": answer(HAND.jwks(), kind="text/plain")},
    "keys broke": {"/keys": answer(HAND.jwks(), 500)},
    "no keys": {"/keys": answer({"keys": []})},
    "private keys": {"/keys": answer({"keys": [HAND.private()]})},
    "too many keys": {"/keys": answer({"keys": [HAND.public()] * 70})},
    "keys without end": {
        "/keys": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + b" " * 300_000
    },
}


@pytest.mark.parametrize("name", WRONG)
async def test_what_does_not_fit_gives_no_keys(issuer: Issuer, name: str) -> None:
    issuer.pages.update(WRONG[name])
    assert await code_of(keys_of(issuer)) in ("issuer-metadata", "issuer-keys", "fetch-too-large")


async def test_a_second_place_makes_up_for_the_first(issuer: Issuer) -> None:
    issuer.pages["/.well-known/oauth-authorization-server"] = answer(
        {"issuer": "https://evil.test", "jwks_uri": "x"}
    )
    assert len(await keys_of(issuer)) == 1


async def test_a_question_about_a_token_is_posted_with_our_own_credentials(issuer: Issuer) -> None:
    issuer.pages["/introspect"] = answer({"active": True})
    client = issuer.client()
    found = await client.introspect(f"{issuer.url}/introspect", "a+b&c=d", "id:1", Secret("s ecret%"))
    assert msgspec.json.decode(found) == {"active": True}
    head = issuer.server.heads[-1].decode()
    assert "Basic " + base64.b64encode(b"id%3A1:s+ecret%25").decode() in head
    assert "content-type: application/x-www-form-urlencoded" in head.lower()
    assert issuer.server.bodies == [b"token=a%2Bb%26c%3Dd&token_type_hint=access_token"]
    for page in (
        answer({"active": True}, 401),
        answer({"active": True}, 302, more=f"Location: {issuer.url}/x\r\n"),
        answer(b"x", kind="text/html"),
    ):
        issuer.pages["/introspect"] = page
        assert (
            await code_of(client.introspect(f"{issuer.url}/introspect", "t", "id", Secret("s")))
            == "issuer-introspection"
        )
    assert await code_of(client.introspect("", "t", "id", Secret("s"))) == "issuer-introspection"
    issuer.names(introspection_endpoint="http://169.254.169.254/")
    named = await client.keys("", "", wants_introspection=True)
    assert (
        await code_of(client.introspect(named.introspection_url, "t", "id", Secret("s"))) == "fetch-refused"
    )
