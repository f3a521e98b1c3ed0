"""Doorward as an OAuth client of upstreams' authorization servers: requests as forms, answers judged; no I/O.

RFC 6749 (client credentials, code, refresh), RFC 7636 (S256 only), RFC 7523 (private_key_jwt, on-behalf-of), RFC 8693 (token
exchange), RFC 8707 (resource), RFC 9207 (issuer of the response).
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Sequence
from typing import Any, Literal
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from doorward.base.errors import OperatorError, UpstreamError
from doorward.identity.oauth_metadata import ServerMetadata, scopes_of

Form = list[tuple[str, str]]
ClientAuth = Literal["auto", "client_secret_basic", "client_secret_post", "private_key_jwt", "none"]

TOKEN_CHARS = 16_384
LIFETIME_SECONDS = 86_400.0  # a token that says it lives longer is asked for again after this
UNSAID_SECONDS = 300.0  # of a token that does not say how long it lives
ASSERTION_SECONDS = 120
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
_JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
# RFC 6749 section 5.2, RFC 8707, RFC 7523: what may be repeated to people and into records.
_ERRORS = frozenset(
    {"invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type",
     "invalid_scope", "invalid_target", "access_denied", "interaction_required", "consent_required",
     "temporarily_unavailable", "server_error", "slow_down", "use_dpop_nonce", "insufficient_scope"}
)  # fmt: skip


class Client(msgspec.Struct, frozen=True):
    """Who Doorward is at one authorization server. It never prints itself."""

    client_id: str
    secret: bytes = b""
    private_key: bytes = b""  # PEM
    key_id: str = ""
    auth: ClientAuth = "auto"

    def __repr__(self) -> str:
        return f"Client({self.client_id!r})"


class Token(msgspec.Struct, frozen=True):
    """What an authorization server gave. It never prints itself."""

    access: str
    expires_at: float  # Unix seconds
    refresh: str = ""
    scopes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Token(until {self.expires_at:.0f})"


class TokenRefusedError(UpstreamError):
    """The token endpoint refused; ``error`` is its code, or "" for one that nobody knows."""

    def __init__(self, error: str, status: int) -> None:
        self.error = error if error in _ERRORS else ""
        super().__init__(
            "oauth-refused",
            "The upstream's authorization server refused to give a token.",
            f"{self.error or status}",
        )


class ResponseRefusedError(UpstreamError):
    """An authorization response that must not be acted on."""

    def __init__(self, detail: str) -> None:
        super().__init__("oauth-response", "The authorization response cannot be used; start again.", detail)


# -- requests ----------------------------------------------------------------------------------------------------


def client_credentials(scopes: Sequence[str], resource: str) -> Form:
    """RFC 6749 section 4.4."""
    return [("grant_type", "client_credentials"), *_scope(scopes), *_resource(resource)]


def code_grant(code: str, redirect_uri: str, verifier: str, resource: str) -> Form:
    """RFC 6749 section 4.1.3 with RFC 7636."""
    return [
        ("grant_type", "authorization_code"),
        ("code", code),
        ("redirect_uri", redirect_uri),
        ("code_verifier", verifier),
        *_resource(resource),
    ]


def refresh_grant(refresh: str, resource: str) -> Form:
    """RFC 6749 section 6; the scopes stay as they were granted."""
    return [("grant_type", "refresh_token"), ("refresh_token", refresh), *_resource(resource)]


def token_exchange(
    subject_token: str, actor_token: str, scopes: Sequence[str], resource: str, audience: str
) -> Form:
    """RFC 8693 section 2.1. With an actor token the result names Doorward in ``act``."""
    form = [
        ("grant_type", _EXCHANGE),
        ("subject_token", subject_token),
        ("subject_token_type", ACCESS_TOKEN),
        ("requested_token_type", ACCESS_TOKEN),
    ]
    if actor_token:
        form += [("actor_token", actor_token), ("actor_token_type", ACCESS_TOKEN)]
    if audience:
        form.append(("audience", audience))
    return [*form, *_scope(scopes), *_resource(resource)]


def on_behalf_of(assertion: str, scopes: Sequence[str]) -> Form:
    """Entra ID's on-behalf-of flow: an RFC 7523 grant with ``requested_token_use``."""
    return [
        ("grant_type", _JWT_BEARER),
        ("assertion", assertion),
        ("requested_token_use", "on_behalf_of"),
        *_scope(scopes),
    ]


def _scope(scopes: Sequence[str]) -> Form:
    return [("scope", " ".join(scopes))] if scopes else []


def _resource(resource: str) -> Form:
    return [("resource", resource)] if resource else []


def authenticate(
    client: Client, form: Form, *, methods: Sequence[str], audience: str, now: float
) -> tuple[list[tuple[str, str]], bytes]:
    """Header fields and body of a token request. ``methods`` are those of the server, ``audience`` who reads an assertion.

    Raises: OperatorError ``oauth-client-key`` when the private key cannot be used.
    """
    fields = [("Accept", "application/json"), ("Content-Type", "application/x-www-form-urlencoded")]
    match chosen_method(client, methods):
        case "private_key_jwt":
            assertion = client_assertion(client, audience, now)
            form = [*form, ("client_id", client.client_id), ("client_assertion_type", _ASSERTION)]
            form.append(("client_assertion", assertion))
        case "client_secret_basic":
            # RFC 6749 section 2.3.1: both parts are form-encoded first.
            pair = f"{quote(client.client_id, safe='')}:{quote(client.secret.decode('latin-1'), safe='')}"
            fields.append(("Authorization", "Basic " + base64.b64encode(pair.encode()).decode()))
        case "client_secret_post":
            form = [
                *form,
                ("client_id", client.client_id),
                ("client_secret", client.secret.decode("latin-1")),
            ]
        case _:
            form = [*form, ("client_id", client.client_id)]
    return fields, urlencode(form).encode()


def chosen_method(client: Client, methods: Sequence[str]) -> str:
    """How a client proves itself at a server that knows ``methods``."""
    if client.auth != "auto":
        return client.auth
    if client.private_key:
        return "private_key_jwt"
    if not client.secret:
        return "none"
    return (
        "client_secret_post"
        if "client_secret_basic" not in methods and "client_secret_post" in methods
        else "client_secret_basic"
    )


def client_assertion(client: Client, audience: str, now: float) -> str:
    """A private_key_jwt assertion (RFC 7523 section 3): for one server, once, for two minutes."""
    from joserfc import jwt
    from joserfc.errors import JoseError
    from joserfc.jwk import ECKey, RSAKey

    try:
        is_ec = _is_ec(client.private_key)
        key: ECKey | RSAKey = (ECKey if is_ec else RSAKey).import_key(client.private_key)
        algorithm = _CURVES[str(key.as_dict(private=False)["crv"])] if is_ec else "RS256"
        header = {"alg": algorithm, "typ": "JWT", **({"kid": client.key_id} if client.key_id else {})}
        claims = {
            "iss": client.client_id,
            "sub": client.client_id,
            "aud": audience,
            "jti": secrets.token_urlsafe(24),
            "iat": int(now),
            "nbf": int(now),
            "exp": int(now) + ASSERTION_SECONDS,
        }
        return jwt.encode(header, claims, key, algorithms=[algorithm])
    except (JoseError, ValueError, KeyError, TypeError) as error:
        raise OperatorError(
            "oauth-client-key",
            "The client's private key is no PEM key of RSA or an elliptic curve.",
            type(error).__name__,
        ) from error


def _is_ec(pem: bytes) -> bool:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    return isinstance(load_pem_private_key(pem, password=None), ec.EllipticCurvePrivateKey)


# -- answers -----------------------------------------------------------------------------------------------------


def read_token(status: int, media_type: str, body: bytes, now: float, *, asked: Sequence[str] = ()) -> Token:
    """Judge a token endpoint's answer. Raises: TokenRefusedError, UpstreamError ``oauth-answer``."""
    try:
        told: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        told = None
    if status != 200:
        error = told.get("error") if isinstance(told, dict) else ""
        raise TokenRefusedError(str(error)[:64], status)
    if not isinstance(told, dict) or media_type != "application/json":
        raise _answer("no JSON object")
    access, kind = told.get("access_token"), told.get("token_type")
    if not isinstance(access, str) or not is_token(access):
        raise _answer("no access token")
    if not isinstance(kind, str) or kind.lower() not in ("bearer", "n_a"):
        raise _answer("token type")  # a bound token must not be presented as one that is not
    if kind.lower() == "n_a":
        raise _answer("not an access token")
    refresh = told.get("refresh_token", "")
    if not isinstance(refresh, str) or (refresh and not is_token(refresh)):
        raise _answer("refresh token")
    lifetime = told.get("expires_in", UNSAID_SECONDS)
    if isinstance(lifetime, str) and lifetime.isascii() and lifetime.isdigit():  # Entra's v1 answers so
        lifetime = int(lifetime[:9])
    if isinstance(lifetime, bool) or not isinstance(lifetime, int | float) or not lifetime > 0:
        raise _answer("lifetime")
    scopes = scopes_of(told["scope"]) if isinstance(told.get("scope"), str) else tuple(asked)
    return Token(access, now + min(float(lifetime), LIFETIME_SECONDS), refresh, scopes)


def is_token(text: str) -> bool:
    """True for what can stand in a header as a bearer token (RFC 6750 section 2.1, and a little more)."""
    return 0 < len(text) <= TOKEN_CHARS and all("!" <= char <= "~" for char in text)


def _answer(detail: str) -> UpstreamError:
    return UpstreamError("oauth-answer", "The upstream's authorization server gave no usable token.", detail)


# -- the code flow ------------------------------------------------------------------------------------------------


class Attempt(msgspec.Struct, frozen=True):
    """One authorization request that waits for its response; kept sealed, used once."""

    owner: tuple[str, ...]  # tenant, issuer, subject, client
    browser: str  # digest of the cookie that must come back
    server: str
    issuer: str  # of the authorization server, validated before the redirect
    says_iss: bool
    client_id: str
    verifier: str
    redirect_uri: str
    resource: str
    scopes: tuple[str, ...]


def begin_code_flow(
    metadata: ServerMetadata, client_id: str, redirect_uri: str, scopes: Sequence[str], resource: str
) -> tuple[str, str, str]:
    """(URL to send the browser to, state, PKCE verifier). Raises: UpstreamError ``oauth-metadata``.

    A server that does not say that it knows S256 is refused before anything is sent (MCP authorization, PKCE).
    """
    if not metadata.has_s256:
        raise UpstreamError(
            "oauth-metadata", "The upstream's authorization server does not offer PKCE with S256."
        )
    if not metadata.authorization_endpoint:
        raise UpstreamError(
            "oauth-metadata", "The upstream's authorization server names no authorization endpoint."
        )
    state, verifier = secrets.token_urlsafe(32), secrets.token_urlsafe(48)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
    query: Form = [
        ("response_type", "code"),
        ("client_id", client_id),
        ("redirect_uri", redirect_uri),
        ("state", state),
        ("code_challenge", challenge),
        ("code_challenge_method", "S256"),
        *_scope(scopes),
        *_resource(resource),
    ]
    mark = "&" if urlsplit(metadata.authorization_endpoint).query else "?"
    return metadata.authorization_endpoint + mark + urlencode(query), state, verifier


def read_response(parameters: Sequence[tuple[str, str]], attempt: Attempt) -> str:
    """The code of an authorization response. Raises: ResponseRefusedError, or TokenRefusedError with the server's own error.

    The issuer is judged before anything else is looked at (RFC 9207 section 2.4): what another server says is neither acted
    on nor shown.
    """
    names = [name for name, _ in parameters]
    if len(set(names)) != len(names):
        raise ResponseRefusedError("a parameter came twice")
    told = dict(parameters)
    if "iss" in told:
        if told["iss"] != attempt.issuer:  # to the letter
            raise ResponseRefusedError("another issuer answers")
    elif attempt.says_iss:
        raise ResponseRefusedError("the issuer is missing")
    if "error" in told:
        raise TokenRefusedError(told["error"], 400)
    code = told.get("code", "")
    if not is_token(code) or len(code) > 4_096:
        raise ResponseRefusedError("no code")
    return code


def wanted_scopes(
    configured: Sequence[str], challenged: Sequence[str], supported: Sequence[str]
) -> tuple[str, ...]:
    """Which scopes to ask for: the operator's, else the challenge's, else all that the resource knows, else none (OC-13)."""
    return tuple(configured) or tuple(challenged) or tuple(supported)
