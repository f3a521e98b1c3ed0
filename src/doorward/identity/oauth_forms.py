"""What arrives at the OAuth endpoints, read so that there is one meaning, and how they refuse (RFC 6749 §3.1, §5.2)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from urllib.parse import parse_qsl, unquote_plus

import msgspec

from doorward.base.errors import CallerError

PARAMETERS_COUNT = 48  # no request of any grant has half as many
VALUE_CHARS = 8_192  # an assertion is the longest of them
FORM = "application/x-www-form-urlencoded"


class Token(msgspec.Struct, frozen=True):
    """An access token that is to be revoked: its ``jti`` and when it runs out anyway, in Unix seconds."""

    token_id: str
    expires_at: float


class OAuthRefusal(CallerError):  # noqa: N818 - an answer of the protocol
    """A refused OAuth request.

    ``error`` is the code of the RFC, ``tell`` its description for the client, ``reason`` what is put on record;
    ``withdrawn`` are access tokens that must be revoked before anybody is answered.
    """

    def __init__(
        self,
        error: str,
        tell: str,
        *,
        reason: str = "",
        status: int = 400,
        withdrawn: Sequence[Token] = (),
        subject: str = "",
    ) -> None:
        super().__init__("oauth-" + error.replace("_", "-"), tell, status=status)
        self.error = error
        self.reason = reason or tell
        self.withdrawn = tuple(withdrawn)
        self.subject = subject


class Form(msgspec.Struct, frozen=True):
    """The parameters of a request. An empty value is as none (RFC 6749 §3.1)."""

    values: dict[str, str]
    resources: tuple[str, ...] = ()  # the one parameter that may stand several times (RFC 8707 §2)

    def get(self, name: str) -> str:
        """A value, "" where there is none."""
        return self.values.get(name, "")


def read_form(text: str) -> Form:
    """Read a query or a body. Raises: OAuthRefusal ``invalid_request``."""
    try:
        pairs = parse_qsl(
            text,
            keep_blank_values=True,
            strict_parsing=bool(text),
            max_num_fields=PARAMETERS_COUNT,
            errors="strict",
        )
    except (ValueError, UnicodeError):
        raise OAuthRefusal("invalid_request", "The parameters cannot be read.") from None
    values: dict[str, str] = {}
    resources: list[str] = []
    for name, value in pairs:
        if len(value) > VALUE_CHARS or any(char < " " or char == "\x7f" for char in value):
            raise OAuthRefusal("invalid_request", "A parameter is too long or holds control characters.")
        if name == "resource":
            if value:
                resources.append(value)
        elif name in values:
            raise OAuthRefusal("invalid_request", "A parameter stands there twice.")
        else:
            values[name] = value
    return Form({name: value for name, value in values.items() if value}, tuple(resources))


class Presented(msgspec.Struct, frozen=True):
    """What a client shows of itself at the token endpoint and its like (RFC 6749 §2.3, RFC 7523 §2.2)."""

    client_id: str
    secret: str = ""
    assertion: str = ""
    raw_secret: str = ""  # as it came, from clients that leave out the encoding of RFC 6749 §2.3.1

    def __repr__(self) -> str:
        return f"Presented({self.client_id!r})"


ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


def read_client(form: Form, authorization: str | None) -> Presented:
    """Who asks, by exactly one method. Raises: OAuthRefusal ``invalid_client`` or ``invalid_request``."""
    named, secret, assertion = form.get("client_id"), form.get("client_secret"), form.get("client_assertion")
    methods = (
        (authorization is not None) + bool(secret) + bool(assertion or form.get("client_assertion_type"))
    )
    if methods > 1:
        raise OAuthRefusal("invalid_request", "Use one way of client authentication, not several.")
    if authorization is not None:
        basic = _read_basic(authorization)
        if named and named != basic.client_id:
            raise _unknown("two client identifiers")
        return basic
    if assertion or form.get("client_assertion_type"):
        if form.get("client_assertion_type") != ASSERTION_TYPE or not assertion:
            raise OAuthRefusal("invalid_request", "Only JWTs are client assertions here (RFC 7523).")
        return Presented(named or _issuer_in(assertion), assertion=assertion)
    if not named:
        raise OAuthRefusal("invalid_request", "client_id is missing.")
    return Presented(named, secret=secret)


def _read_basic(authorization: str) -> Presented:
    scheme, _, encoded = authorization.partition(" ")
    try:
        if scheme.lower() != "basic":
            raise ValueError(scheme)
        name, colon, secret = base64.b64decode(encoded.strip(" "), validate=True).decode().partition(":")
        if not colon or not name or not secret:
            raise ValueError(colon)
        plain = [unquote_plus(part, errors="strict") for part in (name, secret)]
        return Presented(plain[0], secret=plain[1], raw_secret=secret)
    except (ValueError, binascii.Error, UnicodeError):
        raise _unknown("malformed basic credentials") from None


def _issuer_in(assertion: str) -> str:
    """The client that an assertion names, before anything of it is believed: it only chooses whose keys are asked."""
    from doorward.identity.assertions import peek

    named = peek(assertion).get("sub")
    if not isinstance(named, str) or not named:
        raise _unknown("assertion names no client")
    return named


def _unknown(reason: str) -> OAuthRefusal:
    return OAuthRefusal(
        "invalid_client", "The client is not known or did not prove itself.", reason=reason, status=401
    )


def unknown_client(reason: str) -> OAuthRefusal:
    """The one answer for a client that is unknown and one that fails to prove itself."""
    return _unknown(reason)
