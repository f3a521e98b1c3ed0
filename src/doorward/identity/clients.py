"""OAuth clients: those of the settings, those whose document lies at their own URL, and those that registered themselves.

A client document is MCP's Client ID Metadata Document; registration is RFC 7591. What either says of itself is a claim:
names are shown as text beside the host that vouches for them, and redirect URIs are judged one by one.
"""

from __future__ import annotations

import hashlib
import hmac
import unicodedata
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from doorward.base.addresses import Target, parse_target
from doorward.base.errors import CallerError, UpstreamError
from doorward.base.ids import mint_handle
from doorward.identity.assertions import BadAssertion, audiences, check_times, verified
from doorward.identity.metadata import SCOPES
from doorward.identity.oauth_forms import OAuthRefusal, Presented, unknown_client
from doorward.identity.oauth_store import Store, hashed
from doorward.identity.redirects import RedirectRules
from doorward.protocol.json_door import parse_json

CODE, REFRESH, OWN = "authorization_code", "refresh_token", "client_credentials"
DEVICE = "urn:ietf:params:oauth:grant-type:device_code"
ID_JAG = "urn:ietf:params:oauth:grant-type:jwt-bearer"
REDIRECTS_COUNT = 16
NAME_CHARS = 80
DOCUMENT_BYTES = 16_384
ASSERTION_SECONDS = 3_600.0  # that a client's proof may live
_METHODS = ("none", "client_secret_basic", "client_secret_post")
_REGISTERED_PREFIX = "dcr-"


class Client(msgspec.Struct, frozen=True):
    """One OAuth client. ``secret_hash`` and ``jwks`` are how it proves itself; with neither it is public."""

    id: str
    name: str
    kind: Literal["settings", "document", "registered"]
    redirect_uris: tuple[str, ...] = ()
    grants: tuple[str, ...] = (CODE, REFRESH)
    secret_hash: str = ""
    jwks: dict[str, Any] = {}
    roles: tuple[str, ...] = ()  # of the client itself (client credentials)
    may_introspect: bool = False
    version: str = ""  # digest of what it says of itself: another one needs consent anew

    @property
    def host(self) -> str:
        """The host that vouches for it, "" where it only registered itself."""
        try:
            return parse_target(self.id).authority if self.kind == "document" else ""
        except UpstreamError:
            return ""

    @property
    def is_public(self) -> bool:
        """True where nothing but its redirect URI says that it is who it claims to be."""
        return not self.secret_hash and not self.jwks


def version_of(name: str, redirect_uris: tuple[str, ...], jwks: Mapping[str, Any]) -> str:
    """A digest of what a user consents to."""
    return hashlib.sha256(msgspec.json.encode((name, redirect_uris, dict(jwks)), order="sorted")).hexdigest()[
        :32
    ]


def shown_name(text: object) -> str:
    """A client's name as it may be shown: one line, short, nothing that turns or hides text."""
    if not isinstance(text, str):
        return ""
    plain = unicodedata.normalize("NFC", text)
    kept = (
        " " if char.isspace() else char
        for char in plain
        if unicodedata.category(char)[0] != "C" or char.isspace()
    )
    return " ".join("".join(kept).split())[:NAME_CHARS]


# -- documents at a client's own URL ---------------------------------------------------------------------------------


def document_url(client_id: str) -> Target | None:
    """Where a client's document lies, or None when the identifier is no such URL (AS-14, AS-16)."""
    if not client_id.startswith("https://"):
        return None
    try:
        target = parse_target(client_id)
    except UpstreamError:
        return None
    path = target.path.partition("?")[0]
    if target.url != client_id or path == "/" or any(part in (".", "..") for part in path.split("/")):
        return None
    return target if "%2e" not in path.lower() else None


def read_document(client_id: str, body: bytes, rules: RedirectRules) -> Client:
    """A client from its document. Raises: OAuthRefusal ``invalid_client_metadata``."""
    try:
        said = parse_json(body)
    except CallerError:
        said = None
    if not isinstance(said, dict):
        raise _bad("The client's document is not one JSON object.")
    if said.get("client_id") != client_id:
        raise _bad("The client's document names another client_id than its own URL.")
    name = shown_name(said.get("client_name"))
    if not name:
        raise _bad("The client's document has no client_name.")
    method = said.get("token_endpoint_auth_method", "none")
    if (
        method not in ("none", "private_key_jwt")
        or "client_secret" in said
        or "client_secret_expires_at" in said
    ):
        raise _bad(
            "A client with a document proves itself by none or private_key_jwt; there is no shared secret."
        )
    jwks = said.get("jwks") if method == "private_key_jwt" else {}
    if method == "private_key_jwt" and not (
        isinstance(jwks, dict) and isinstance(jwks.get("keys"), list) and jwks["keys"]
    ):
        raise _bad("private_key_jwt needs the public keys in jwks.")
    uris = _redirects(said.get("redirect_uris"), rules)
    public = dict(jwks) if isinstance(jwks, dict) else {}
    return Client(
        id=client_id,
        name=name,
        kind="document",
        redirect_uris=uris,
        grants=_grants(said.get("grant_types", [CODE, REFRESH])),
        jwks=public,
        version=version_of(name, uris, public),
    )


# -- dynamic registration (RFC 7591) ---------------------------------------------------------------------------------


def register(body: bytes, rules: RedirectRules, now: float) -> tuple[Client, str, dict[str, Any]]:
    """A new client, its secret ("" for none) and the answer. Raises: OAuthRefusal."""
    try:
        said = parse_json(body)
    except CallerError:
        said = None
    if not isinstance(said, dict):
        raise _bad("Send one JSON object.")
    method = said.get("token_endpoint_auth_method", "client_secret_basic")
    if method not in _METHODS:
        raise _bad(f"token_endpoint_auth_method is one of {', '.join(_METHODS)}.")
    responses = said.get("response_types", ["code"])
    if responses != ["code"]:
        raise _bad("The one response type is code.")
    scope = said.get("scope", "")
    if not isinstance(scope, str):
        raise _bad("scope is a text.")
    kind = said.get("application_type", "web")
    if kind not in ("web", "native"):
        raise _bad("application_type is web or native.")
    grants = _grants(said.get("grant_types", [CODE]))
    uris = _redirects(said.get("redirect_uris"), rules)
    name = shown_name(said.get("client_name")) or "A client without a name"
    secret = "" if method == "none" else mint_handle()
    client = Client(
        id=_REGISTERED_PREFIX + mint_handle(16),
        name=name,
        kind="registered",
        redirect_uris=uris,
        grants=grants,
        secret_hash=hashed(secret) if secret else "",
        version=version_of(name, uris, {}),
    )
    answer: dict[str, Any] = {
        "client_id": client.id,
        "client_id_issued_at": int(now),
        "client_name": name,
        "redirect_uris": list(uris),
        "grant_types": list(grants),
        "response_types": ["code"],
        "token_endpoint_auth_method": method,
        "application_type": kind,
        "scope": " ".join(SCOPES),
    }
    if secret:
        answer |= {"client_secret": secret, "client_secret_expires_at": 0}
    return client, secret, answer


def _redirects(value: object, rules: RedirectRules) -> tuple[str, ...]:
    if not isinstance(value, list) or not 0 < len(value) <= REDIRECTS_COUNT:
        raise OAuthRefusal("invalid_redirect_uri", f"redirect_uris is a list of 1 to {REDIRECTS_COUNT} URIs.")
    for uri in value:
        why = rules.judge(uri) if isinstance(uri, str) else "is no text"
        if why:
            raise OAuthRefusal("invalid_redirect_uri", f"A redirect URI {why}.")
    return tuple(value)


def _grants(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or CODE not in value or not all(isinstance(one, str) for one in value):
        raise _bad("grant_types is a list that holds authorization_code.")
    foreign = [one for one in value if one not in (CODE, REFRESH)]
    if foreign:
        raise _bad("A client may only have authorization_code and refresh_token.")
    return tuple(dict.fromkeys(value))


def _bad(tell: str) -> OAuthRefusal:
    return OAuthRefusal("invalid_client_metadata", tell)


# -- proof -----------------------------------------------------------------------------------------------------------


def prove(
    presented: Presented, client: Client | None, *, store: Store, now: float, audience: tuple[str, ...]
) -> Client:
    """The client, once it has proven itself in the way that it must. Raises: OAuthRefusal ``invalid_client``.

    ``audience``: what an assertion may be addressed to (our issuer and token endpoint; RFC 7523 §3).
    """
    if client is None:
        raise unknown_client("unknown client")
    if presented.assertion:
        _prove_by_key(presented.assertion, client, store, now, audience)
    elif presented.secret:
        given = (presented.secret, presented.raw_secret)
        held = [hmac.compare_digest(hashed(one), client.secret_hash) for one in given if one]
        if not client.secret_hash or not any(held):
            raise unknown_client("wrong secret" if client.secret_hash else "secret of a client that has none")
    elif not client.is_public:
        raise unknown_client("no proof")
    return client


def _prove_by_key(
    assertion: str, client: Client, store: Store, now: float, audience: tuple[str, ...]
) -> None:
    if not client.jwks:
        raise unknown_client("assertion of a client that has no keys")
    try:
        claims = verified(assertion, client.jwks, types=("", "jwt", "client-authentication+jwt"))
        expires_at = check_times(claims, now, longest=ASSERTION_SECONDS)
    except BadAssertion as error:
        raise unknown_client(f"assertion: {error}") from None
    if claims.get("iss") != client.id or claims.get("sub") != client.id:
        raise unknown_client("assertion: iss and sub are not the client")
    named = audiences(claims)
    if len(named) != 1 or named[0] not in audience:
        raise unknown_client("assertion: for another audience")
    token_id = claims.get("jti")
    if not isinstance(token_id, str) or not 0 < len(token_id) <= 256:
        raise unknown_client("assertion: jti is missing")
    if not store.mark_once("oauth-assertion", hashed(f"{client.id} {token_id}"), expires_at + 60.0, now):
        raise unknown_client("assertion: used before")
