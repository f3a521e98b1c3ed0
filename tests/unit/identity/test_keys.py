from __future__ import annotations

import base64
import hashlib

import msgspec
import pytest

from doorward.base.errors import OperatorError
from doorward.identity.keys import RETIRED_KEYS_COUNT, KeySet, SigningKey, verifying_keys


def test_the_key_id_is_the_rfc_7638_thumbprint() -> None:
    public = SigningKey.generate().public()
    canonical = msgspec.json.encode({name: public[name] for name in ("crv", "kty", "x", "y")})
    digest = base64.urlsafe_b64encode(hashlib.sha256(canonical).digest()).rstrip(b"=").decode()
    assert public["kid"] == digest


def test_the_public_document_holds_no_private_part() -> None:
    keys = KeySet.generate().rotated()
    document = keys.jwks()
    assert [key["kid"] for key in document["keys"]] == [keys.current.kid, keys.retired[0]["kid"]]
    for key in document["keys"]:
        assert set(key) == {"kty", "crv", "x", "y", "kid", "use", "alg"}
    assert set(verifying_keys(document)) == {key["kid"] for key in document["keys"]}
    assert repr(keys.current) == f"SigningKey({keys.current.kid})"


def test_a_key_set_survives_its_file() -> None:
    keys = KeySet.generate().rotated()
    again = KeySet.from_bytes(keys.to_bytes())
    assert again.jwks() == keys.jwks()
    assert again.current.kid == keys.current.kid


def test_old_retired_keys_are_forgotten() -> None:
    keys = KeySet.generate()
    for _ in range(RETIRED_KEYS_COUNT + 2):
        keys = keys.rotated()
    assert len(keys.retired) == RETIRED_KEYS_COUNT


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b'{"current":{}}',
        b'{"current":{"kty":"oct","k":"AA"}}',
        b'{"current":{"kty":"EC","crv":"P-256","x":"AA","y":"AA","d":"AA"}}',
        b'{"current":{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}}',
    ],
)
def test_a_broken_key_file_is_an_operator_error(content: bytes) -> None:
    with pytest.raises(OperatorError) as caught:
        KeySet.from_bytes(content)
    assert caught.value.code == "key-file-broken"
