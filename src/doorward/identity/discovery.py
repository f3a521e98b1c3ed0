"""Where an issuer publishes what it is, and what of that is believed (RFC 8414, OpenID Connect Discovery 1.0, RFC 7517).

Pure readers: whoever fetches hands the bytes in. A document that names another issuer is not this issuer's, to the letter.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import msgspec

from doorward.identity.bearer import parse_object
from doorward.identity.foreign_keys import KEY_SET_BYTES, KEYS_COUNT
from doorward.identity.trust import is_name

METADATA_BYTES = 262_144
_OAUTH, _OPENID = "/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"
_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


class IssuerMetadata(msgspec.Struct, frozen=True):
    """What we take from an issuer's metadata."""

    jwks_uri: str
    introspection_endpoint: str = ""
    algorithms: tuple[str, ...] = ()  # for ID tokens; access tokens usually have the same
    authorization_endpoint: str = ""
    token_endpoint: str = ""
    registration_endpoint: str = ""
    challenge_methods: tuple[str, ...] | None = None
    scopes: tuple[str, ...] = ()


def metadata_urls(issuer: str) -> list[str]:
    """Where the metadata may be, in the order of the MCP specification; for an issuer with a path in three places."""
    parts = urlsplit(issuer)
    base, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    if not path:
        return [base + _OAUTH, base + _OPENID]
    return [base + _OAUTH + path, base + _OPENID + path, base + path + _OPENID]


def read_metadata(body: bytes, issuer: str) -> IssuerMetadata | str:
    """An issuer's metadata, or why it is none of this issuer's."""
    found = parse_object(body) if len(body) <= METADATA_BYTES else None
    if found is None:
        return "the metadata is not one strict JSON object"
    said = found.get("issuer")
    if said != issuer:
        if isinstance(said, str) and said.rstrip("/") == issuer.rstrip("/"):
            return "the metadata names the issuer with another trailing slash; write it exactly so"
        return "the metadata names another issuer"
    jwks_uri = found.get("jwks_uri")
    if not is_name(jwks_uri):
        return "the metadata names no jwks_uri"
    return IssuerMetadata(
        jwks_uri=str(jwks_uri),
        introspection_endpoint=_text(found.get("introspection_endpoint")),
        algorithms=_texts(found.get("id_token_signing_alg_values_supported")) or (),
        authorization_endpoint=_text(found.get("authorization_endpoint")),
        token_endpoint=_text(found.get("token_endpoint")),
        registration_endpoint=_text(found.get("registration_endpoint")),
        challenge_methods=_texts(found.get("code_challenge_methods_supported")),
        scopes=_texts(found.get("scopes_supported")) or (),
    )


def read_key_set(body: bytes) -> list[dict[str, Any]] | str:
    """The keys of a JWK set without whatever is private in them, or why there are none."""
    found = parse_object(body) if len(body) <= KEY_SET_BYTES else None
    keys = found.get("keys") if found is not None else None
    if not isinstance(keys, list):
        return "the key set is not one strict JSON object with keys"
    if len(keys) > KEYS_COUNT:
        return f"the key set has more than {KEYS_COUNT} keys"
    kept: list[dict[str, Any]] = []
    for key in keys:
        # SECURITY: a key whose private part is public proves nothing (and must not be passed on).
        if not isinstance(key, dict) or not _PRIVATE.isdisjoint(key):
            continue
        kept.append({name: value for name, value in key.items() if _is_plain(value)})
    return kept or "the key set holds no public key"


def _is_plain(value: object) -> bool:
    if isinstance(value, list):
        return all(isinstance(one, str) for one in value)
    return isinstance(value, str)


def _text(value: object) -> str:
    return str(value) if is_name(value) else ""


def _texts(value: object) -> tuple[str, ...] | None:
    if not isinstance(value, list):
        return None
    return tuple(str(one) for one in value if is_name(one))
