"""Authorization requests: judged whole before anybody is shown anything, then sealed to the browser that brought them.

The seal is the proof against forged forms: it binds the request to one browser's cookie, to an end and to one use, and
nothing is kept for whoever only looks (OAuth 2.1 §4.1, RFC 7636, RFC 8707, RFC 9207; AS-07 to AS-09, AS-25, AS-31).
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Collection
from hashlib import sha256
from urllib.parse import urlsplit

import msgspec

from doorward.base.ids import mint_handle
from doorward.identity.clients import CODE, Client
from doorward.identity.metadata import SCOPE
from doorward.identity.oauth_forms import Form, OAuthRefusal
from doorward.identity.oauth_store import Store, hashed
from doorward.identity.redirects import RedirectRules

STATE_CHARS = 4_096
PAGE_SECONDS = 600.0  # that a page may stand open
_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)  # of S256
_TOLERATED = frozenset(
    {"offline_access"}
)  # asked for out of habit; it grants nothing, refresh tokens come anyway
_PROMPTS = frozenset({"", "none", "consent", "login", "select_account"})


class Asked(msgspec.Struct, frozen=True):
    """A good authorization request."""

    client_id: str
    client_version: str
    redirect_uri: str
    resource: str
    scopes: tuple[str, ...]
    challenge: str
    state: str = ""
    prompt: str = ""
    device: str = ""  # the user code where a device waits; there is no redirect URI then

    def again(self) -> list[tuple[str, str]]:
        """The query that asks the same again."""
        return [
            ("response_type", "code"), ("client_id", self.client_id), ("redirect_uri", self.redirect_uri),
            ("resource", self.resource), ("scope", " ".join(self.scopes)), ("code_challenge", self.challenge),
            ("code_challenge_method", "S256"), ("state", self.state), ("prompt", self.prompt),
        ]  # fmt: skip


def check_redirect(form: Form, client: Client, rules: RedirectRules) -> str:
    """The redirect URI of a request. Raises: OAuthRefusal, which is shown and never redirected (AS-09)."""
    asked = form.get("redirect_uri")
    if not asked:
        raise OAuthRefusal("invalid_request", "redirect_uri is missing.")
    if rules.find(asked, client.redirect_uris) is None:
        raise OAuthRefusal(
            "invalid_request",
            "The redirect URI is not one that this client has.",
            reason="foreign redirect URI",
        )
    return asked


def check_request(form: Form, client: Client, redirect_uri: str, resources: Collection[str]) -> Asked:
    """Everything else of a request. Raises: OAuthRefusal, which the client may hear."""
    if CODE not in client.grants:
        raise OAuthRefusal("unauthorized_client", "This client may not ask for codes.")
    if len(form.get("state")) > STATE_CHARS:
        raise OAuthRefusal("invalid_request", "state is too long.")
    if form.get("response_type") != "code":
        raise OAuthRefusal("unsupported_response_type", "The one response type is code.")
    if form.get("response_mode") not in ("", "query"):
        raise OAuthRefusal("invalid_request", "The one response mode is query.")
    if form.get("request") or form.get("request_uri"):
        raise OAuthRefusal("invalid_request", "Request objects are not supported.")
    if not form.get("code_challenge"):
        raise OAuthRefusal("invalid_request", "code_challenge is missing: PKCE is needed.")
    if form.get("code_challenge_method") != "S256":
        raise OAuthRefusal("invalid_request", "code_challenge_method must be S256.")
    if not _CHALLENGE.fullmatch(form.get("code_challenge")):
        raise OAuthRefusal("invalid_request", "code_challenge is not an S256 challenge.")
    if form.get("prompt") not in _PROMPTS:
        raise OAuthRefusal("invalid_request", "prompt is not supported.")
    return Asked(
        client_id=client.id,
        client_version=client.version,
        redirect_uri=redirect_uri,
        resource=check_resource(form, resources),
        scopes=check_scope(form),
        challenge=form.get("code_challenge"),
        state=form.get("state"),
        prompt=form.get("prompt"),
    )


def check_scope(form: Form) -> tuple[str, ...]:
    """The scopes that are granted. Raises: OAuthRefusal ``invalid_scope``."""
    asked = set(form.get("scope").split(" ")) - _TOLERATED - {""}
    if asked - {SCOPE}:
        raise OAuthRefusal("invalid_scope", f"The one scope here is {SCOPE}.")
    return (SCOPE,)


def check_resource(form: Form, resources: Collection[str]) -> str:
    """The one resource that is asked for, as we write it. Raises: OAuthRefusal ``invalid_target`` (RFC 8707 §2)."""
    if not form.resources:
        raise OAuthRefusal(
            "invalid_target", "resource is missing: name the MCP endpoint that the token is for."
        )
    if len(form.resources) > 1:
        raise OAuthRefusal("invalid_target", "A token is for one resource.")
    found = plain_resource(form.resources[0])
    if found not in resources:
        raise OAuthRefusal("invalid_target", "This resource is not served here.")
    return found


def plain_resource(uri: str) -> str:
    """A resource with scheme and host in lower case, as RFC 3986 §6.2.2.1 lets anybody write them."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return ""
    if not parts.netloc or parts.fragment or uri.endswith("#"):
        return ""
    return (
        f"{parts.scheme.lower()}://{parts.netloc.lower()}{uri[len(parts.scheme) + 3 + len(parts.netloc) :]}"
    )


class _Sealed(msgspec.Struct, frozen=True, array_like=True):
    kind: str
    until: float
    nonce: str
    browser: str
    subject: str
    asked: Asked | None


class Opened(msgspec.Struct, frozen=True):
    """What a page gave and its form brought back."""

    asked: Asked | None
    subject: str
    nonce: str
    until: float


class Seal:
    """Closes what a page's form will bring back, and opens it for the same browser only."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def close(self, kind: str, asked: Asked | None, *, browser: str, subject: str, now: float) -> str:
        """The hidden field of a form. ``subject`` is who is signed in, "" for nobody."""
        sealed = _Sealed(kind, now + PAGE_SECONDS, mint_handle(16), hashed(browser), subject, asked)
        body = msgspec.msgpack.encode(sealed)
        return _text(body) + "." + _text(self._mac(body))

    def open(self, kind: str, text: str, *, browser: str, now: float) -> Opened:
        """What ``close`` was given. Raises: OAuthRefusal with status 403."""
        body_text, _, mac = text.partition(".")
        body = _bytes(body_text)
        if not body or not hmac.compare_digest(self._mac(body), _bytes(mac)):
            raise _forged("no seal of ours")
        sealed = msgspec.msgpack.decode(body, type=_Sealed)
        if sealed.kind != kind:
            raise _forged("seal of another page")
        if not browser or not hmac.compare_digest(sealed.browser, hashed(browser)):
            raise _forged("seal of another browser")
        if now >= sealed.until:
            raise _forged("the page stood open too long")
        return Opened(sealed.asked, sealed.subject, sealed.nonce, sealed.until)

    def use(self, opened: Opened, store: Store, now: float) -> None:
        """See that the form comes back once. Raises: OAuthRefusal with status 403."""
        if not store.mark_once("oauth-form", opened.nonce, opened.until + 60.0, now):
            raise _forged("the form came back twice")

    def derive(self, what: str, text: str) -> str:
        """A secret that follows from a text and our key only."""
        return _text(hmac.digest(self._key, f"doorward-{what}\0{text}".encode(), sha256))

    def _mac(self, body: bytes) -> bytes:
        return hmac.digest(self._key, b"doorward-form\0" + body, sha256)


def _forged(reason: str) -> OAuthRefusal:
    tell = "This page is not current any more. Go back to your MCP client and connect again."
    return OAuthRefusal("access_denied", tell, reason=reason, status=403)


def _text(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        return b""
