from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.base.errors import UpstreamError
from doorward.identity import oauth_metadata as meta

SERVER = "https://mcp.example/a/mcp"
ISSUER = "https://as.example/tenant"
GOOD = {
    "issuer": ISSUER,
    "token_endpoint": "https://as.example/t",
    "code_challenge_methods_supported": ["S256"],
}


def refused(read: Any, *arguments: Any, **more: Any) -> None:
    with pytest.raises(UpstreamError) as caught:
        read(*arguments, **more)
    assert caught.value.code == "oauth-metadata"


def test_documents_are_looked_for_in_the_order_of_the_specification() -> None:
    root = "https://mcp.example/.well-known/oauth-protected-resource"
    assert meta.resource_metadata_urls(SERVER) == [f"{root}/a/mcp", root]
    assert meta.resource_metadata_urls("https://mcp.example/") == [root]
    assert meta.server_metadata_urls(ISSUER) == [
        "https://as.example/.well-known/oauth-authorization-server/tenant",
        "https://as.example/.well-known/openid-configuration/tenant",
        "https://as.example/tenant/.well-known/openid-configuration",
    ]
    assert meta.server_metadata_urls("https://as.example") == [
        "https://as.example/.well-known/oauth-authorization-server",
        "https://as.example/.well-known/openid-configuration",
    ]


def test_a_good_document_is_read() -> None:
    found = meta.read_server_metadata(json.dumps({**GOOD, "x": 1}).encode(), ISSUER)
    assert (found.has_s256, found.says_iss, found.auth_methods) == (True, False, ("client_secret_basic",))
    told = {"resource": SERVER, "authorization_servers": [ISSUER], "scopes_supported": ["a", "b c", 3, "a"]}
    resource = meta.read_resource_metadata(json.dumps(told).encode(), SERVER)
    assert (resource.issuers, resource.scopes) == ((ISSUER,), ("a",))


@pytest.mark.parametrize(
    "change",
    [
        {"issuer": ISSUER + "/"}, {"issuer": "https://AS.example/tenant"}, {"issuer": None}, {"issuer": [ISSUER]},
        {"issuer": "https://as.example:443/tenant"}, {"token_endpoint": ""}, {"token_endpoint": "javascript:alert(1)"},
        {"authorization_endpoint": "javascript:alert(1)"}, {"authorization_endpoint": "data:text/html,x"},
        {"authorization_endpoint": "file:///etc/passwd"}, {"authorization_endpoint": "https://a@b.example/"},
        {"authorization_endpoint": "https://as.example/#x"}, {"registration_endpoint": "ftp://as.example"},
        {"authorization_endpoint": "https://as.example/a b"}, {"authorization_endpoint": "https://as.example/;$(id)|`x`"},
        {"authorization_endpoint": 7},
    ],
)  # fmt: skip
def test_a_document_of_another_issuer_or_with_another_kind_of_url_is_not_used(change: dict[str, Any]) -> None:
    refused(meta.read_server_metadata, json.dumps({**GOOD, **change}).encode(), ISSUER)


@pytest.mark.parametrize("resource", ["https://mcp.example/b/mcp", "https://mcp.example", "https://evil.example/a/mcp", "", None, "https://mcp.example/a/mcp/x"])  # fmt: skip
def test_the_document_of_another_resource_is_not_used(resource: object) -> None:
    told = json.dumps({"resource": resource, "authorization_servers": [ISSUER]}).encode()
    refused(meta.read_resource_metadata, told, SERVER)


def test_the_root_may_speak_for_itself_only_at_the_root() -> None:
    told = json.dumps({"resource": "https://mcp.example/", "authorization_servers": [ISSUER]}).encode()
    assert meta.read_resource_metadata(told, SERVER, at_root=True).issuers == (ISSUER,)
    refused(meta.read_resource_metadata, told, SERVER)


@pytest.mark.parametrize("issuers", [None, [], "x", ["javascript:x"], [1], ["https://u:p@as.example"]])
def test_a_resource_without_a_usable_issuer_is_not_used(issuers: object) -> None:
    told = json.dumps({"resource": SERVER, "authorization_servers": issuers}).encode()
    refused(meta.read_resource_metadata, told, SERVER)


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b"\xff", b"[" * 10_000, b'{"issuer":'])
def test_what_is_no_object_is_refused(body: bytes) -> None:
    refused(meta.read_server_metadata, body, ISSUER)
    refused(meta.read_resource_metadata, body, SERVER)


@pytest.mark.parametrize(
    ("field", "found"),
    [
        ('Bearer resource_metadata="https://x.example/a", scope="a b"', {"resource_metadata": "https://x.example/a", "scope": "a b"}),
        ("bearer error=insufficient_scope, scope=\"x\"", {"error": "insufficient_scope", "scope": "x"}),
        ('Bearer realm="a \\"quoted\\" word"', {"realm": 'a "quoted" word'}),
        ("Bearer", {}), ("Basic realm=x", {}), ("", {}), ('Bearer scope="a", scope="b"', {}), ('Bearer scope="a', {}),
        ("Bearer scope", {}), ('Bearer a="b" c="d"', {}), ("Bearer " + "a=b," * 9_000, {}),
    ],
)  # fmt: skip
def test_challenges(field: str, found: dict[str, str]) -> None:
    assert meta.parse_challenge(field) == found


@given(st.text(max_size=300))
def test_no_text_breaks_the_parsers(text: str) -> None:
    meta.parse_challenge("Bearer " + text)
    assert meta.is_url(text) in (True, False)
    assert all(" " not in scope for scope in meta.scopes_of(text))
