"""Ask upstreams' authorization servers: discovery, registration, tokens, revocation; over the guarded client only."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

from doorward.adapters.guarded_http import GuardedHttp
from doorward.base.errors import UpstreamError
from doorward.identity import oauth_client
from doorward.identity.oauth_client import Client, Form, Token
from doorward.identity.oauth_metadata import (
    ResourceMetadata,
    ServerMetadata,
    is_url,
    parse_challenge,
    read_resource_metadata,
    read_server_metadata,
    resource_metadata_urls,
    scopes_of,
    server_metadata_urls,
)

_DOCUMENT_BYTES = 262_144
_TOKEN_BYTES = 131_072
_ABSENT = frozenset({400, 401, 403, 404, 405, 406, 410, 501})


class Challenge(msgspec.Struct, frozen=True):
    """What a server says to who comes without a token."""

    metadata_url: str = ""
    scopes: tuple[str, ...] = ()


class UpstreamOAuth:
    """One client for all of them. Raises everywhere: UpstreamError ``oauth-...`` and ``fetch-...``."""

    def __init__(self, http: GuardedHttp, here: GuardedHttp) -> None:
        """``http`` reaches what others chose; ``here`` the servers' own origins as well, which the operator chose."""
        self._http = http
        self._here = here

    async def challenge_of(self, url: str) -> Challenge:
        """Come to a server without a token and hear where one is to be had (MCP authorization, 401)."""
        body = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
        fields = [("Accept", "application/json, text/event-stream"), ("Content-Type", "application/json")]
        got = await self._here.post(url, fields, body)
        told = parse_challenge(got.fields.get("www-authenticate", "")) if got.status == 401 else {}
        place = told.get("resource_metadata", "")
        return Challenge(place if is_url(place) else "", scopes_of(told.get("scope", "")))

    async def resource(self, url: str, place: str = "") -> ResourceMetadata | None:
        """What the server says of itself: at ``place``, or where RFC 9728 puts it; None where there is nothing."""
        if place:
            got = await self._here.get(place, limit_bytes=_DOCUMENT_BYTES)
            if got.status != 200:
                raise UpstreamError(
                    "oauth-metadata", "The server's resource metadata is not where it says.", str(got.status)
                )
            return read_resource_metadata(got.body, url)
        for number, one in enumerate(resource_metadata_urls(url)):
            got = await self._here.get(one, limit_bytes=_DOCUMENT_BYTES)
            if got.status == 200:
                return read_resource_metadata(got.body, url, at_root=number > 0)
            if got.status not in _ABSENT:
                raise UpstreamError(
                    "oauth-metadata", "The server's resource metadata cannot be had.", str(got.status)
                )
        return None

    async def server(self, issuer: str, ca_file: str = "") -> ServerMetadata:
        """What an issuer says of itself."""
        for one in server_metadata_urls(issuer):
            got = await self._http.get(one, ca_file=ca_file or None, limit_bytes=_DOCUMENT_BYTES)
            if got.status == 200:
                return read_server_metadata(got.body, issuer)
            if got.status not in _ABSENT:
                raise UpstreamError(
                    "oauth-metadata", "The authorization server's metadata cannot be had.", str(got.status)
                )
        raise UpstreamError("oauth-metadata", "The authorization server has no metadata.")

    async def token(
        self, at: ServerMetadata, client: Client, form: Form, *, asked: Sequence[str] = (), ca_file: str = ""
    ) -> Token:
        """Ask for a token. Raises also: TokenRefusedError."""
        now = time.time()
        fields, body = oauth_client.authenticate(
            client, form, methods=at.auth_methods, audience=at.issuer or at.token_endpoint, now=now
        )
        got = await self._http.post(
            at.token_endpoint, fields, body, ca_file=ca_file or None, limit_bytes=_TOKEN_BYTES
        )
        if got.status >= 500:
            raise UpstreamError(
                "oauth-unavailable", "The upstream's authorization server is out of order.", str(got.status)
            )
        return oauth_client.read_token(got.status, got.media_type, got.body, now, asked=asked)

    async def register(self, at: ServerMetadata, redirect_uri: str, name: str, ca_file: str = "") -> Client:
        """Register dynamically (RFC 7591): a public web client unless the server gives a secret."""
        wanted = {
            "client_name": name,
            "redirect_uris": [redirect_uri],
            "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"],
            "token_endpoint_auth_method": "none" if "none" in at.auth_methods else at.auth_methods[0],
            # OpenID registration: a web client's redirect URI is https; one on loopback is a native client's.
            "application_type": "web" if redirect_uri.startswith("https:") else "native",
        }
        fields = [("Accept", "application/json"), ("Content-Type", "application/json")]
        got = await self._http.post(
            at.registration_endpoint,
            fields,
            msgspec.json.encode(wanted),
            ca_file=ca_file or None,
            limit_bytes=_TOKEN_BYTES,
        )
        try:
            told = msgspec.json.decode(got.body)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            told = None
        if got.status not in (200, 201) or not isinstance(told, dict):
            raise UpstreamError(
                "oauth-registration",
                "The upstream's authorization server does not register Doorward.",
                str(got.status),
            )
        client_id, secret = told.get("client_id"), told.get("client_secret", "")
        method = told.get("token_endpoint_auth_method", "auto")
        known = ("client_secret_basic", "client_secret_post", "none")
        if not isinstance(client_id, str) or not 0 < len(client_id) <= 2_048 or not isinstance(secret, str):
            raise UpstreamError(
                "oauth-registration", "The upstream's authorization server registered nobody."
            )
        return Client(client_id, secret.encode(), auth=method if method in known else "auto")

    async def revoke(self, at: ServerMetadata, client: Client, token: str, ca_file: str = "") -> bool:
        """Revoke a token (RFC 7009). False where the server cannot."""
        if not at.revocation_endpoint:
            return False
        fields, body = oauth_client.authenticate(
            client, [("token", token)], methods=at.auth_methods, audience=at.issuer, now=time.time()
        )
        got = await self._http.post(at.revocation_endpoint, fields, body, ca_file=ca_file or None)
        return got.status == 200
