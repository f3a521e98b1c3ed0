"""The documents that the data plane serves without asking anyone: built once for each snapshot, from settings only."""

from __future__ import annotations

from typing import Any

from doorward.app.trust import scopes_of
from doorward.gateway.answers import JSON_FIELDS
from doorward.gateway.ports import Reply
from doorward.identity.metadata import Offers, authorization_server, endpoint_path, protected_resource
from doorward.protocol.json_door import encode_json
from doorward.settings import Settings

_PUBLIC = JSON_FIELDS.replace(b"no-store", b"max-age=300")


def documents_of(settings: Settings, jwks: dict[str, Any]) -> dict[str, Reply]:
    """Path -> answer, for RFC 9728, RFC 8414, OpenID discovery and the key set; none when identity is off."""
    if settings.identity.mode == "off":
        return {}
    public_url = settings.gateway.public_url
    issuers = [one.issuer for one in settings.identity.issuers]
    scopes = scopes_of(settings)
    prefix = "/.well-known/oauth-protected-resource"
    found: dict[str, Any] = {prefix: protected_resource(public_url, endpoint_path(""), scopes, issuers)}
    for name in ("", *settings.servers):
        path = endpoint_path(name)
        found[prefix + path] = protected_resource(public_url, path, scopes, issuers)
    if settings.identity.mode != "external":  # else the issuers publish their own
        server = authorization_server(public_url, _offers(settings))
        found["/.well-known/oauth-authorization-server"] = server
        found["/.well-known/openid-configuration"] = server
        found["/oauth/jwks"] = jwks
    return {path: Reply(200, _PUBLIC, encode_json(document)) for path, document in found.items()}


def _offers(settings: Settings) -> Offers:
    """What the authorization server serves with these settings."""
    registration = settings.identity.registration
    grants = {grant for one in settings.identity.clients for grant in one.grants}
    return Offers(
        registration.documents, registration.dynamic, "device_code" in grants, "jwt_bearer" in grants
    )
