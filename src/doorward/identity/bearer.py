"""Bearer tokens on the wire: one Authorization header to one token, and why a request is not authenticated (RFC 6750)."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from doorward.base.errors import CallerError
from doorward.protocol.json_door import parse_json

TOKEN_BYTES = 16_384  # a longer token is refused before anything looks at it
HEADER_BYTES = 1_024  # of a token's decoded JOSE header; ours has under 150
REMEMBERED_COUNT = 4_096  # judgements kept, good and bad apart
SKEW_SECONDS = 5.0  # that iat and nbf may lie ahead of our clock; expiry gets no grace

_TOKEN68 = re.compile(r"[A-Za-z0-9\-._~+/]+=*", re.ASCII)  # RFC 9110 §11.2
_SEGMENT = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
# SECURITY: a token may neither bring its key nor change how it is read (RFC 7515 §4.1, RFC 7797, RFC 8725
# §3).
REFUSED_HEADERS = frozenset({"jwk", "jku", "x5u", "x5c", "crit", "b64", "zip", "enc", "epk"})


class TokenRefusal(msgspec.Struct, frozen=True):
    """Why a request is not authenticated.

    ``reason`` is for the record and never holds token text; ``tell`` is constant text for the caller;
    ``error`` is the RFC 6750 error code or None when no bearer token was sent. ``retry_at``: Unix seconds
    when another judgement of the same bytes may differ, 0 for never. ``more`` are further parameters of the challenge.
    """

    kind: Literal["missing", "malformed", "invalid", "step-up", "busy", "unavailable"]
    status: int
    reason: str
    tell: str
    error: str | None = None
    retry_at: float = 0.0
    more: tuple[tuple[str, str], ...] = ()


class Pending(msgspec.Struct, frozen=True):
    """Nobody here can judge the token yet: ``begin`` asks, and calls back when judging it again makes sense."""

    begin: Callable[[Callable[[], None]], None]


MISSING = TokenRefusal("missing", 401, "no bearer token", "Send an access token for this MCP server.")


def malformed(reason: str) -> TokenRefusal:
    """The header is no Authorization header with one bearer token."""
    return TokenRefusal("malformed", 400, reason, "The Authorization header is malformed.", "invalid_request")


def invalid(reason: str, retry_at: float = 0.0) -> TokenRefusal:
    """The token is not good here."""
    tell = "The access token is not valid for this MCP server."
    return TokenRefusal("invalid", 401, reason, tell, "invalid_token", retry_at)


def busy(now: float) -> TokenRefusal:
    """The sender's budget of failures is used up: nothing of this token was looked at."""
    tell = "Too many tokens from this address were not valid."
    return TokenRefusal("busy", 429, "budget of the address for unknown tokens", tell, retry_at=now + 1.0)


def unavailable(reason: str, now: float) -> TokenRefusal:
    """SECURITY: whoever must vouch for the token cannot be asked, so nobody vouches (fail closed)."""
    tell = "The access token cannot be verified at the moment."
    return TokenRefusal("unavailable", 503, reason, tell, retry_at=now + 1.0)


def read_bearer(authorization: str | None) -> str | TokenRefusal:
    """The token of one Authorization header."""
    if authorization is None:
        return MISSING
    scheme, _, token = authorization.strip(" \t").partition(" ")
    if scheme.lower() not in ("bearer", "dpop"):  # which of them a token needs, bind-token says
        return MISSING if _TOKEN68.fullmatch(scheme) else malformed("no authentication scheme")
    token = token.strip(" ")
    if len(token) > TOKEN_BYTES:
        return invalid("token longer than the cap")
    if not _TOKEN68.fullmatch(token):
        return malformed("no single token68 after Bearer")
    return token


def split_token(token: str) -> tuple[bytes, bytes, bytes] | TokenRefusal | None:
    """Header, payload and signature of a JWS in compact form; None where it is no such thing at all."""
    segments = token.split(".")
    if len(segments) != 3:
        return None
    header, payload, signature = (decode_segment(segment) for segment in segments)
    if header is None or payload is None or signature is None:
        return invalid("not canonical base64url")
    return header, payload, signature


def decode_segment(segment: str) -> bytes | None:
    """Base64url without padding, in its one spelling."""
    if not _SEGMENT.fullmatch(segment):
        return None
    try:
        decoded = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    except ValueError:
        return None
    # One spelling only: stray bits in the last character would give a revoked or refused token further names.
    return decoded if base64.urlsafe_b64encode(decoded).rstrip(b"=").decode() == segment else None


def parse_object(text: bytes) -> dict[str, Any] | None:
    """One strict JSON object."""
    # SECURITY: the strict door, for a lenient parser keeps the last of two equal claims (sub: alice, sub:
    # root).
    try:
        value = parse_json(text)
    except CallerError:
        return None
    return value if isinstance(value, dict) else None


def remember(cache: dict[Any, Any], digest: object, value: object) -> None:
    """Keep a judgement; the oldest goes where there is no room."""
    if len(cache) >= REMEMBERED_COUNT:
        del cache[next(iter(cache))]
    cache[digest] = value
