from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward.identity import metadata

PUBLIC = "https://gate.example"


def test_the_resource_and_the_issuer_are_the_same_to_the_letter_everywhere() -> None:
    for public_url in (PUBLIC, PUBLIC + "/"):
        resource = metadata.protected_resource(public_url, "/time/mcp")
        server = metadata.authorization_server(public_url)
        assert (
            resource["resource"]
            == metadata.resource_of(public_url, "time")
            == "https://gate.example/time/mcp"
        )
        assert resource["authorization_servers"] == [server["issuer"]] == [PUBLIC]
        assert resource["bearer_methods_supported"] == ["header"]
        assert resource["scopes_supported"] == ["mcp"]


def test_the_authorization_server_document_names_what_clients_look_for() -> None:
    document = metadata.authorization_server(PUBLIC)
    assert document["jwks_uri"] == "https://gate.example/oauth/jwks"
    assert document["response_types_supported"] == ["code"]
    assert document["code_challenge_methods_supported"] == ["S256"]
    assert document["authorization_response_iss_parameter_supported"] is True
    assert document["client_id_metadata_document_supported"] is True
    for name, value in document.items():
        if name.endswith("_endpoint"):
            assert value.startswith("https://gate.example/oauth/")
    for name in ("implicit", "password"):
        assert name not in document["grant_types_supported"]


def test_the_authorization_server_document_names_only_what_is_served() -> None:
    document = metadata.authorization_server(PUBLIC, metadata.Offers(documents=False, dynamic=False))
    assert document["client_id_metadata_document_supported"] is False
    assert "registration_endpoint" not in document


@pytest.mark.parametrize(("server", "path"), [("", "/mcp"), ("mcp", "/mcp"), ("time", "/time/mcp")])
def test_each_server_has_its_path(server: str, path: str) -> None:
    assert metadata.endpoint_path(server) == path


def test_a_challenge_without_a_token_names_no_error() -> None:
    assert metadata.challenge(PUBLIC, "/time/mcp") == (
        'Bearer resource_metadata="https://gate.example/.well-known/oauth-protected-resource/time/mcp", scope="mcp"'
    )


def test_a_challenge_after_a_bad_token_names_the_error_first() -> None:
    text = metadata.challenge(PUBLIC, "/mcp", error="invalid_token", description='a "b"\r\nSet-Cookie: x\\')
    assert text.startswith(
        'Bearer error="invalid_token", error_description="a \\"b\\"Set-Cookie: x\\\\", resource_'
    )


def test_the_well_known_part_goes_before_the_path_of_the_public_url() -> None:
    url = metadata.resource_metadata_url("https://x.example/gate/", "/time/mcp")
    assert url == "https://x.example/.well-known/oauth-protected-resource/gate/time/mcp"


@given(st.text())
def test_no_description_breaks_out_of_the_header(text: str) -> None:
    value = metadata.challenge(PUBLIC, "/mcp", description=text)
    assert value.isascii()
    assert value.isprintable()
    unquoted = value.replace("\\\\", "").replace('\\"', "")
    assert unquoted.count('"') == (6 if text else 4)
