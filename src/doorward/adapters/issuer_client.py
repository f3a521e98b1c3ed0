"""Ask one issuer for its metadata, its keys and what it knows of a token, through the guarded client."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import quote_plus, urlencode

import msgspec

from doorward.adapters.guarded_http import Fetched, GuardedHttp
from doorward.base.errors import DoorwardError, UpstreamError
from doorward.base.secret import Secret
from doorward.identity.discovery import (
    METADATA_BYTES,
    IssuerMetadata,
    metadata_urls,
    read_key_set,
    read_metadata,
)
from doorward.identity.foreign_keys import KEY_SET_BYTES

ANSWER_BYTES = 65_536
ASK_SECONDS = 5.0
_JSON = (("accept", "application/json"),)
_KEY_TYPES = ("application/json", "application/jwk-set+json")


class IssuerKeys(msgspec.Struct, frozen=True):
    """What a fetch found."""

    keys: list[dict[str, Any]]
    jwks_uri: str
    introspection_url: str


class IssuerClient:
    """Asks; remembers nothing. Raises everywhere: DoorwardError ``fetch-...``, ``ca-unreadable`` or ``issuer-...``."""

    def __init__(self, http: GuardedHttp, issuer: str, ca_file: str = "") -> None:
        self._http = http
        self._issuer = issuer
        self._ca_file = ca_file or None

    async def keys(self, jwks_uri: str, introspection_url: str, *, wants_introspection: bool) -> IssuerKeys:
        """Keys, by way of the metadata wherever settings do not say where they are."""
        if not jwks_uri or (wants_introspection and not introspection_url):
            found = await self.metadata()
            jwks_uri = jwks_uri or found.jwks_uri
            introspection_url = introspection_url or found.introspection_endpoint
        return IssuerKeys(await self.key_set(jwks_uri), jwks_uri, introspection_url)

    async def metadata(self) -> IssuerMetadata:
        """The first document that is this issuer's; the complaint is about the first that was there at all."""
        complaint: DoorwardError | None = None
        for url in metadata_urls(self._issuer):
            got = await self._http.get(url, fields=_JSON, ca_file=self._ca_file, limit_bytes=METADATA_BYTES)
            if got.status == 200:
                found = read_metadata(got.body, self._issuer)
                if isinstance(found, IssuerMetadata):
                    return found
                complaint = complaint or UpstreamError(
                    "issuer-metadata", f"The issuer cannot be used: {found}."
                )
            elif complaint is None and got.status not in (400, 401, 403, 404, 405):
                complaint = UpstreamError(
                    "issuer-metadata", f"The issuer answered {got.status} for its metadata."
                )
        raise complaint or UpstreamError(
            "issuer-metadata", "The issuer publishes no metadata at the usual places."
        )

    async def key_set(self, url: str) -> list[dict[str, Any]]:
        """The public keys at ``url``."""
        got = await self._http.get(url, fields=_JSON, ca_file=self._ca_file, limit_bytes=KEY_SET_BYTES)
        if got.status != 200:
            raise UpstreamError("issuer-keys", f"The issuer answered {got.status} for its keys.")
        if got.media_type not in _KEY_TYPES:
            raise UpstreamError("issuer-keys", "The issuer's keys are not JSON.")
        found = read_key_set(got.body)
        if isinstance(found, str):
            raise UpstreamError("issuer-keys", f"The issuer's keys cannot be used: {found}.")
        return found

    async def introspect(self, url: str, token: str, client_id: str, secret: Secret) -> bytes:
        """The issuer's answer about a token (RFC 7662 section 2), as JSON."""
        if not url:
            raise UpstreamError(
                "issuer-introspection", "The issuer names no introspection endpoint; set introspection.url."
            )
        # RFC 6749 section 2.3.1: both are form-encoded before they are joined.
        pair = f"{quote_plus(client_id)}:{quote_plus(secret.reveal().decode())}"
        fields = [
            ("Authorization", "Basic " + base64.b64encode(pair.encode()).decode()),
            ("Content-Type", "application/x-www-form-urlencoded"),
            *_JSON,
        ]
        body = urlencode({"token": token, "token_type_hint": "access_token"}).encode()
        got: Fetched = await self._http.post(
            url, fields, body, ca_file=self._ca_file, limit_bytes=ANSWER_BYTES, seconds=ASK_SECONDS
        )
        if got.status != 200 or got.media_type != "application/json":
            raise UpstreamError(
                "issuer-introspection", f"The issuer answered {got.status} to a question about a token."
            )
        return got.body
