"""The documents anybody may read: built from settings only, for every endpoint there is and for no other."""

from __future__ import annotations

from pathlib import Path

import msgspec

from doorward.app.documents import documents_of
from doorward.identity.keys import KeySet
from doorward.settings import Settings
from doorward.settings_load import load_bytes

WELL_KNOWN = "/.well-known/oauth-protected-resource"


def settings_of(folder: Path, text: str = "") -> Settings:
    content = (
        f'[gateway]\nlisten = "127.0.0.1:8808"\npublic_url = "https://gate.example"\ndata_dir = "{folder}"\n'
        f'[servers.time]\nurl = "http://127.0.0.1:9/mcp"\n{text}'
    )
    return load_bytes(content.encode(), folder / "doorward.toml").settings


def test_every_endpoint_has_its_metadata_and_the_bare_path_is_the_federated_one(tmp_path: Path) -> None:
    documents = documents_of(settings_of(tmp_path), KeySet.generate().jwks())
    found = {path: msgspec.json.decode(reply.body) for path, reply in documents.items()}
    assert found[f"{WELL_KNOWN}/time/mcp"]["resource"] == "https://gate.example/time/mcp"
    assert found[f"{WELL_KNOWN}/mcp"]["resource"] == "https://gate.example/mcp"
    assert found[WELL_KNOWN] == found[f"{WELL_KNOWN}/mcp"]
    assert not [
        path
        for path in found
        if path.startswith(WELL_KNOWN)
        and path not in (WELL_KNOWN, f"{WELL_KNOWN}/mcp", f"{WELL_KNOWN}/time/mcp")
    ]


def test_the_issuer_is_the_public_url_everywhere(tmp_path: Path) -> None:
    documents = documents_of(settings_of(tmp_path), KeySet.generate().jwks())
    server = msgspec.json.decode(documents["/.well-known/oauth-authorization-server"].body)
    resource = msgspec.json.decode(documents[f"{WELL_KNOWN}/time/mcp"].body)
    assert server["issuer"] == "https://gate.example" and resource["authorization_servers"] == [
        "https://gate.example"
    ]
    assert (
        documents["/.well-known/openid-configuration"].body
        == documents["/.well-known/oauth-authorization-server"].body
    )


def test_the_keys_are_public_ones(tmp_path: Path) -> None:
    documents = documents_of(settings_of(tmp_path), KeySet.generate().jwks())
    keys = msgspec.json.decode(documents["/oauth/jwks"].body)["keys"]
    assert keys and all("d" not in key and key["kty"] == "EC" for key in keys)


def test_every_document_is_json_that_may_be_kept_for_a_while(tmp_path: Path) -> None:
    for reply in documents_of(settings_of(tmp_path), KeySet.generate().jwks()).values():
        assert reply.status == 200 and b"application/json" in reply.fields and b"max-age=300" in reply.fields


def test_without_identity_there_is_nothing_to_tell(tmp_path: Path) -> None:
    settings = load_bytes(
        f'[gateway]\ndata_dir = "{tmp_path}"\n[identity]\nmode = "off"\n'.encode(), tmp_path / "doorward.toml"
    ).settings
    assert documents_of(settings, KeySet.generate().jwks()) == {}
