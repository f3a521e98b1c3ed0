"""Signing in at somebody else's identity provider: what is asked there, and what of the answer is believed (OpenID Connect Core).

Our own ``state``, nonce and PKCE verifier go there; nothing of the client's request does. An answer counts only in the
browser that agreed before, once, within ten minutes, and from the issuer that was asked (RFC 9207, RFC 9700 §4.4).
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any
from urllib.parse import quote

import msgspec

from doorward.base.ids import mint_handle
from doorward.identity.assertions import ALGORITHMS, BadAssertion, audiences, check_times, verified
from doorward.identity.grants import CLIENT_SUBJECT, Who
from doorward.identity.oauth_forms import Form, OAuthRefusal
from doorward.identity.oauth_store import Store, hashed
from doorward.identity.redirects import with_query
from doorward.identity.requests import Asked

TRIPS = "oauth-trip"
TRIP_SECONDS = 600.0
ID_TOKEN_SECONDS = 86_400.0
SUBJECT_CHARS = 256
ROLES_COUNT = 256

Derive = Callable[[str, str], str]  # (what for, state) -> a secret that follows from the state and our key


class Provider(msgspec.Struct, frozen=True):
    """What the provider's metadata says; every URL in it is fetched by the guarded client only."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    sends_iss: bool = False
    methods: tuple[str, ...] = ("client_secret_basic",)
    algorithms: tuple[str, ...] = ("RS256",)


class Trip(msgspec.Struct, frozen=True):
    """One way to the provider and back. Nonce and verifier follow from the state, which is kept as a hash only."""

    asked: Asked
    browser: str  # hash of the cookie that agreed
    issuer: str


def read_provider(issuer: str, said: Any) -> Provider:
    """The provider's metadata (OpenID Connect Discovery §4.3). Raises: OAuthRefusal when it cannot be used."""
    if not isinstance(said, dict) or said.get("issuer") != issuer:
        raise unusable("metadata is of another issuer")
    urls = [said.get(name) for name in ("authorization_endpoint", "token_endpoint", "jwks_uri")]
    if not all(isinstance(url, str) and url.startswith(("https://", "http://")) for url in urls):
        raise unusable("metadata lacks an endpoint")
    if "S256" not in said.get("code_challenge_methods_supported", ["S256"]):
        raise unusable("provider has no PKCE with S256")
    signing = said.get("id_token_signing_alg_values_supported", ["RS256"])
    methods = said.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
    return Provider(
        issuer,
        str(urls[0]),
        str(urls[1]),
        str(urls[2]),
        said.get("authorization_response_iss_parameter_supported") is True,
        tuple(one for one in methods if isinstance(one, str)),
        tuple(one for one in signing if one in ALGORITHMS),
    )


def leave(
    store: Store,
    provider: Provider,
    asked: Asked,
    *,
    browser: str,
    client_id: str,
    scopes: tuple[str, ...],
    callback: str,
    derive: Derive,
    now: float,
) -> tuple[str, str]:
    """Where the browser goes, and the state that it must bring back."""
    state = mint_handle()
    nonce, verifier = derive("nonce", state), derive("verifier", state)
    trip = Trip(asked, hashed(browser), provider.issuer)
    store.keep(TRIPS, hashed(state), msgspec.msgpack.encode(trip), expires_at=now + TRIP_SECONDS)
    challenge = base64.urlsafe_b64encode(sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    # SECURITY: a fixed list. Nothing that the client sent is among it, not even its scope, prompt or resource (R9, AS-33).
    query = [
        ("response_type", "code"), ("client_id", client_id), ("redirect_uri", callback), ("scope", " ".join(scopes)),
        ("state", state), ("nonce", nonce), ("code_challenge", challenge), ("code_challenge_method", "S256"),
    ]  # fmt: skip
    return with_query(provider.authorization_endpoint, query), state


def come_back(
    store: Store, form: Form, *, browser: str, state_cookie: str, now: float, is_bound: bool = True
) -> Trip:
    """The trip that an answer belongs to, which is over with it. ``is_bound`` is False only where the range attacks.

    Raises: OAuthRefusal with status 403.
    """
    state = form.get("state")
    if is_bound and (
        not state or not state_cookie or not hmac.compare_digest(state.encode(), state_cookie.encode())
    ):
        raise _stray("state is not this browser's")
    found = store.take(TRIPS, hashed(state), now)
    if found is None:
        raise _stray("state is unknown, used or too old")
    trip = msgspec.msgpack.decode(found, type=Trip)
    if is_bound and not hmac.compare_digest(trip.browser, hashed(browser)):
        raise _stray("another browser agreed")
    return trip


def check_issuer(trip: Trip, provider: Provider, form: Form) -> None:
    """See that the answer is of the issuer that was asked (RFC 9207 §2.4). Raises: OAuthRefusal with status 403."""
    named = form.get("iss")
    if trip.issuer != provider.issuer or (named and named != provider.issuer):
        raise _stray("answer of another issuer")
    if provider.sends_iss and not named:
        raise _stray("answer without its issuer")


def token_request(
    provider: Provider, *, code: str, verifier: str, callback: str, client_id: str, secret: str
) -> tuple[list[tuple[str, str]], str]:
    """Header fields and body that redeem a code at the provider."""
    form = [
        ("grant_type", "authorization_code"), ("code", code), ("redirect_uri", callback), ("code_verifier", verifier),
    ]  # fmt: skip
    fields = [("content-type", "application/x-www-form-urlencoded"), ("accept", "application/json")]
    if secret and "client_secret_basic" in provider.methods:
        pair = f"{quote(client_id, safe='')}:{quote(secret, safe='')}"
        fields.append(("authorization", "Basic " + base64.b64encode(pair.encode()).decode()))
    else:
        form.append(("client_id", client_id))
        if secret:
            form.append(("client_secret", secret))
    body = "&".join(f"{name}={quote(value, safe='')}" for name, value in form)
    return fields, body


def read_id_token(
    answer: Any, jwks: Mapping[str, Any], provider: Provider, *, expected: str, client_id: str, now: float
) -> dict[str, Any]:
    """The claims of the ID token in the provider's answer (Core §3.1.3.7); ``expected`` is the nonce. Raises: OAuthRefusal."""
    token = answer.get("id_token") if isinstance(answer, dict) else None
    if not isinstance(token, str):
        raise unusable("no ID token")
    try:
        claims = verified(token, jwks, algorithms=provider.algorithms or ("RS256",))
        check_times(claims, now, longest=ID_TOKEN_SECONDS)
    except BadAssertion as error:
        raise unusable(f"ID token: {error}") from None
    named = audiences(claims)
    if claims.get("iss") != provider.issuer:
        raise unusable("ID token: another issuer")
    if client_id not in named or (len(named) > 1 and claims.get("azp") != client_id):
        raise unusable("ID token: for another client")
    if claims.get("azp", client_id) != client_id:
        raise unusable("ID token: for another party")
    if "iat" not in claims:
        raise unusable("ID token: iat is missing")
    nonce = claims.get("nonce")
    if not isinstance(nonce, str) or not hmac.compare_digest(nonce.encode(), expected.encode()):
        raise unusable("ID token: of another sign-in")
    return claims


def who_is(
    claims: Mapping[str, Any],
    *,
    provider: str,
    subject_claim: str,
    roles_claim: str,
    mapped: Mapping[str, tuple[str, ...]],
) -> Who:
    """The user here. Raises: OAuthRefusal when the claims name none."""
    subject = claims.get(subject_claim)
    usable = isinstance(subject, str) and 0 < len(subject) <= SUBJECT_CHARS and subject.isprintable()
    if not usable or str(subject).startswith(CLIENT_SUBJECT):
        raise unusable(f"ID token: {subject_claim} names nobody")
    given = claims.get(roles_claim, [])
    values = [given] if isinstance(given, str) else given if isinstance(given, list) else []
    texts = [one for one in values[:ROLES_COUNT] if isinstance(one, str)]
    roles = [role for text in texts for role in (mapped.get(text, ()) if mapped else (text,))]
    return Who(str(subject), tuple(dict.fromkeys(roles)), provider=provider)


def unusable(reason: str) -> OAuthRefusal:
    """The one page for whatever a provider did wrong: nothing of its answer is shown."""
    return OAuthRefusal(
        "server_error",
        "The identity provider did not sign you in. Try again, or ask the operator.",
        reason=reason,
        status=502,
    )


def _stray(reason: str) -> OAuthRefusal:
    tell = "This sign-in was not begun in this browser, or is over. Go back to your MCP client and connect again."
    return OAuthRefusal("access_denied", tell, reason=reason, status=403)
