"""How programs become clients: registration with limits, and documents at a client's own URL behind a guarded fetch."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from doorward.identity.clients import Client, document_url, read_document, shown_name
from doorward.identity.oauth_forms import OAuthRefusal
from doorward.identity.redirects import RedirectRules
from tests.oauth.kit import Browser, auth_rows, authorize_url, call, one_record, tokens_of
from tests.stack.kit import Stack, running
from tests.stand_ins.http_server import HttpUpstream, tool
from tests.wire.tls_kit import Authority

URL = "https://client.example/oauth/client.json"
GOOD: dict[str, Any] = {
    "client_id": URL,
    "client_name": "A client",
    "redirect_uris": ["http://127.0.0.1/callback"],
    "token_endpoint_auth_method": "none",
}


def said(**changes: Any) -> bytes:
    return json.dumps({key: value for key, value in {**GOOD, **changes}.items() if value is not ...}).encode()


BAD_METADATA = [
    ("no object", b"[]"),
    ("no JSON", b"{"),
    ("twice the same member", b'{"redirect_uris":["https://a.example/"],"redirect_uris":["https://b.example/"]}'),
    ("no redirect URI", said(redirect_uris=[])),
    ("redirect URIs are a text", said(redirect_uris="https://a.example/cb")),
    ("too many redirect URIs", said(redirect_uris=[f"https://a.example/{n}" for n in range(17)])),
    ("a number as redirect URI", said(redirect_uris=[1])),
    ("implicit", said(grant_types=["authorization_code", "implicit"])),
    ("password", said(grant_types=["password"])),
    ("for itself", said(grant_types=["client_credentials"])),
    ("with client credentials", said(grant_types=["authorization_code", "client_credentials"])),
    ("token response", said(response_types=["token"])),
    ("key proof without a place for keys", said(token_endpoint_auth_method="private_key_jwt")),
    ("odd method", said(token_endpoint_auth_method="tls_client_auth")),
    ("odd application", said(application_type="desktop")),
    ("scope is a list", said(scope=["mcp"])),
]  # fmt: skip


@pytest.mark.parametrize(("name", "body"), BAD_METADATA, ids=lambda one: one if isinstance(one, str) else "")
def test_metadata_that_is_not_understood_registers_nobody(stack: Stack, name: str, body: bytes) -> None:
    before = len(auth_rows(stack))
    made = Browser(stack).ask("POST", "/oauth/register", body.decode(), Content_Type="application/json")
    assert made.status == 400
    assert made.json["error"] in ("invalid_client_metadata", "invalid_redirect_uri")
    one_record(stack, before, "register-refused")


def test_a_form_registers_nobody(stack: Stack) -> None:
    made = Browser(stack).post("/oauth/register", {"redirect_uris": "https://a.example/cb"})
    assert (made.status, made.json["error"]) == (400, "invalid_client_metadata")


def test_registration_has_a_limit_for_each_address_and_one_for_all() -> None:
    servers = {"notes": HttpUpstream(tools=[tool("list")])}
    identity = {"users": [{"name": "alice", "roles": ["user"]}], "registration": {"dynamic_count": 5}}
    with running(servers, tables={"identity": identity}) as stack:
        made = [
            Browser(stack).ask("POST", "/oauth/register", said().decode(), Content_Type="application/json")
            for _ in range(31)
        ]
        assert [one.status for one in made] == [201] * 30 + [429]
        assert made[-1].json["error"] == "temporarily_unavailable"
        kept = stack.admin("/api/v1/oauth-clients").json
        assert {one["id"] for one in kept} == {
            one.json["client_id"] for one in made[25:30]
        }  # the oldest unused went
        last = made[29].json["client_id"]
        browser = Browser(stack).sign_in()
        assert call(stack, tokens_of(browser, client_id=last)["access_token"]) == 200
        assert [one["used"] for one in stack.admin("/api/v1/oauth-clients").json if one["id"] == last] == [
            True
        ]


def test_where_registration_is_off_there_is_no_such_path() -> None:
    servers = {"notes": HttpUpstream(tools=[tool("list")])}
    identity = {"registration": {"dynamic": False, "documents": False}}
    with running(servers, tables={"identity": identity}) as stack:
        made = Browser(stack).ask("POST", "/oauth/register", said().decode(), Content_Type="application/json")
        assert made.status == 404
        document = Browser(stack).get("/.well-known/oauth-authorization-server").json
        assert "registration_endpoint" not in document
        assert document["client_id_metadata_document_supported"] is False
        page = Browser(stack).get(authorize_url(stack, client_id=URL))
        assert page.status == 400
        assert "Clients with documents are not accepted here." in page.text


# -- documents -------------------------------------------------------------------------------------------------------

NO_DOCUMENT_URL = [
    "http://client.example/c.json",
    "https://client.example",
    "https://client.example/",
    "https://client.example/c.json#x",
    "https://user@client.example/c.json",
    "https://client.example/../c.json",
    "https://client.example/a/./c.json",
    "https://client.example/%2e%2e/c.json",
    "https://CLIENT.example/c.json",
    "https://client.example:443/c.json",
    "https://127.1/c.json",
    "https://client.example./c.json",
    "HTTPS://client.example/c.json",
    "https://client.example/" + "x" * 2_100,
    "https://clïent.example/c.json",
    "https:client.example/c.json",
]  # fmt: skip


@pytest.mark.parametrize("url", NO_DOCUMENT_URL)
def test_an_identifier_that_is_no_plain_https_url_with_a_path_is_no_document(url: str) -> None:
    assert document_url(url) is None


def test_a_good_document_is_a_public_client() -> None:
    client = read_document(URL, said(), RedirectRules())
    assert client.is_public
    assert client.host == "client.example"
    assert client.redirect_uris == ("http://127.0.0.1/callback",)


BAD_DOCUMENTS = [
    ("another client_id", said(client_id="https://client.example/other.json")),
    ("client_id with a slash more", said(client_id=URL + "/")),
    ("no client_id", said(client_id=...)),
    ("no name", said(client_name=...)),
    ("an empty name", said(client_name="\u202e\u200b ")),
    ("no redirect URIs", said(redirect_uris=...)),
    ("a bad redirect URI", said(redirect_uris=["javascript:alert(1)"])),
    ("a shared secret", said(client_secret="x")),
    ("a method with a shared secret", said(token_endpoint_auth_method="client_secret_post")),
    ("keys without keys", said(token_endpoint_auth_method="private_key_jwt")),
    ("an empty key set", said(token_endpoint_auth_method="private_key_jwt", jwks={"keys": []})),
    ("keys elsewhere", said(token_endpoint_auth_method="private_key_jwt", jwks_uri="https://evil.example/jwks")),
    ("for itself", said(grant_types=["client_credentials"])),
    ("a list", b"[]"),
    ("broken", b'{"client_id":'),
    ("client_id twice", said()[:-1] + b',"client_id":"https://evil.example/x"}'),
]  # fmt: skip


@pytest.mark.parametrize(("name", "body"), BAD_DOCUMENTS, ids=lambda one: one if isinstance(one, str) else "")
def test_a_document_that_does_not_hold_is_no_client(name: str, body: bytes) -> None:
    with pytest.raises(OAuthRefusal):
        read_document(URL, body, RedirectRules())


def test_another_document_is_another_question() -> None:
    one, two = (read_document(URL, said(client_name=name), RedirectRules()) for name in ("A", "B"))
    assert one.version != two.version
    other = read_document(URL, said(redirect_uris=["https://a.example/cb"]), RedirectRules())
    assert other.version != read_document(URL, said(), RedirectRules()).version


def test_a_name_is_one_short_line_of_visible_text() -> None:
    assert shown_name("a\u202eb\u0000c\r\nd\te" + "x" * 100) == "abc d e" + "x" * 73
    assert shown_name(5) == ""
    assert isinstance(Client("a", "a", "settings"), Client)


class DocumentHost:
    """An https server of our own authority that gives one document and counts who asks."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        context = self.authority.server("127.0.0.1")
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._context = context
        self.port = self._socket.getsockname()[1]
        self.url = f"https://127.0.0.1:{self.port}/client.json"
        self.asked = 0
        self.status = "200 OK"
        self.fields = "Content-Type: application/json\r\n"
        self.body = said(client_id=self.url)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._socket.accept()
            except OSError:
                return
            try:
                with self._context.wrap_socket(plain, server_side=True) as conn:
                    conn.recv(65_536)
                    self.asked += 1
                    head = f"HTTP/1.1 {self.status}\r\n{self.fields}Content-Length: {len(self.body)}\r\nConnection: close\r\n\r\n"
                    conn.sendall(head.encode() + self.body)
            except OSError:
                continue

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DocumentHost]:
    made = DocumentHost(tmp_path_factory.mktemp("authority"))
    yield made
    made.close()


def document_stack(host: DocumentHost, **registration: Any) -> Any:
    identity = {
        "users": [{"name": "alice", "roles": ["user"]}],
        "registration": {"ca_file": str(host.authority.file), **registration},
    }
    tables = {"identity": identity, "network": {"allow": [f"127.0.0.1:{host.port}"]}}
    return running({"notes": HttpUpstream(tools=[tool("list")])}, tables=tables)


def test_a_client_with_a_document_logs_in_and_its_host_vouches_for_it(host: DocumentHost) -> None:
    with document_stack(host) as stack:
        browser = Browser(stack).sign_in()
        page = browser.get(authorize_url(stack, client_id=host.url))
        assert f"127.0.0.1:{host.port} ({host.url})" in page.text
        assert "A client" in page.text
        assert host.asked == 1
        assert call(stack, tokens_of(browser, client_id=host.url)["access_token"]) == 200
        assert host.asked == 1  # one fetch for the whole sign-in
        for bad in (host.url + "?x", f"https://127.0.0.1:{host.port}/../client.json", "https://169.254.169.254/client.json",
                    "https://10.0.0.1/client.json", "https://127.0.0.1:1/client.json", "http://127.0.0.1/client.json"):  # fmt: skip
            before = len(auth_rows(stack))
            refused = browser.get(authorize_url(stack, client_id=bad))
            assert refused.status == 400, bad
            assert "location" not in refused.fields
            assert "169.254" not in refused.body
            one_record(stack, before, "authorize-refused")


HOSTILE = [
    ("302 Found", "Location: https://169.254.169.254/\r\nContent-Type: application/json\r\n", None),
    ("404 Not Found", "Content-Type: application/json\r\n", None),
    ("200 OK", "Content-Type: text/html\r\n", None),
    ("200 OK", "Content-Type: application/json\r\n", b"{" + b" " * 20_000 + b"}"),
    ("200 OK", "Content-Type: application/json\r\n", b"secret of an inner service"),
    ("200 OK", "Content-Type: application/json\r\n", said(client_id="https://other.example/c.json")),
]


@pytest.mark.parametrize(("status", "fields", "body"), HOSTILE)
def test_t13_t21_a_hostile_document_host_gets_nothing_and_nothing_of_it_is_shown(
    tmp_path: Path, status: str, fields: str, body: bytes | None
) -> None:
    made = DocumentHost(tmp_path)
    made.status, made.fields = status, fields
    made.body = made.body if body is None else body
    try:
        with document_stack(made) as stack:
            for _ in range(3):
                page = Browser(stack).get(authorize_url(stack, client_id=made.url))
                assert page.status == 400
                assert "secret of an inner service" not in page.body
                assert "location" not in page.fields
            assert made.asked == 1  # failures are remembered for a while, too
    finally:
        made.close()


def test_only_named_hosts_may_have_documents(host: DocumentHost) -> None:
    with document_stack(host, document_hosts=["client.example"]) as stack:
        asked = host.asked
        page = Browser(stack).get(authorize_url(stack, client_id=host.url))
        assert page.status == 400
        assert "Documents of this host are not accepted here." in page.text
        assert host.asked == asked
