"""Security events that an issuer sends about its own subjects: read and judged (RFC 8417, SSF 1.0, CAEP 1.0, RISC 1.0).

A security event token is no access token and no ID token: another ``typ``, another audience, and nothing that expires.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from doorward.identity import bearer
from doorward.identity.bearer import TokenRefusal
from doorward.identity.foreign_keys import algorithm_of, foreign_keys, holds
from doorward.identity.trust import TrustedIssuer, is_name, moment

EVENT_BYTES = 16_384
EVENTS_COUNT = 8  # in one token; there is one as a rule
OLD_SECONDS = 604_800.0  # older tokens are refused; younger ones are remembered by their jti
_CAEP = "https://schemas.openid.net/secevent/caep/event-type/"
_RISC = "https://schemas.openid.net/secevent/risc/event-type/"
_VERIFICATION = "https://schemas.openid.net/secevent/ssf/event-type/verification"
# After each of these a token from before says more than it should.
WITHDRAWING = frozenset(
    {
        _CAEP + name
        for name in ("session-revoked", "credential-change", "token-claims-change", "assurance-level-change")
    }
    | {
        _RISC + name
        for name in ("account-disabled", "account-purged", "sessions-revoked", "credential-compromise")
    }
)


class SecurityEvent(msgspec.Struct, frozen=True):
    """What an issuer said; ``subjects`` are those whose tokens from before are withdrawn."""

    token_id: str
    subjects: tuple[str, ...]
    kinds: tuple[str, ...]


class EventRefusal(msgspec.Struct, frozen=True):
    """Why an event is not taken: the code of RFC 8935 section 2.4 and a constant sentence; ``kid`` where a key is missing."""

    error: str
    tell: str
    kid: str = ""


def issuer_named(token: str) -> str:
    """The issuer that a token names, before anything of it is believed; "" for none."""
    parts = bearer.split_token(token)
    claims = bearer.parse_object(parts[1]) if isinstance(parts, tuple) else None
    issuer = claims.get("iss") if claims is not None else None
    return issuer if isinstance(issuer, str) else ""


def read_event(
    token: str, trust: TrustedIssuer, keys: list[dict[str, Any]], audience: str, now: float
) -> SecurityEvent | EventRefusal:
    """Judge one security event token of ``trust.issuer`` and say what it means."""
    parts = bearer.split_token(token)
    if parts is None or isinstance(parts, TokenRefusal):
        return _bad("invalid_request", "This is no security event token.")
    header, claims = bearer.parse_object(parts[0]), bearer.parse_object(parts[1])
    if header is None or claims is None or len(parts[0]) > bearer.HEADER_BYTES:
        return _bad("invalid_request", "Header and claims are one strict JSON object each.")
    algorithm, kid, kind = algorithm_of(header.get("alg")), header.get("kid"), header.get("typ")
    if not isinstance(kind, str) or kind.lower() not in ("secevent+jwt", "application/secevent+jwt"):
        return _bad("invalid_request", "typ is secevent+jwt.")
    if (
        algorithm not in trust.algorithms
        or not bearer.REFUSED_HEADERS.isdisjoint(header)
        or not isinstance(kid, str)
    ):
        return _bad("invalid_key", "The key or the algorithm is not one that counts.")
    key = foreign_keys({"keys": keys}, trust.algorithms).get((kid, algorithm))
    if key is None:
        return EventRefusal("invalid_key", "The key is not known.", kid)
    if not holds(key, algorithm, token.rpartition(".")[0].encode(), parts[2]):
        return _bad("authentication_failed", "The signature does not hold.")
    return _read(claims, trust.issuer, audience, now)


def _read(claims: Mapping[str, Any], issuer: str, audience: str, now: float) -> SecurityEvent | EventRefusal:
    if claims.get("iss") != issuer:
        return _bad("invalid_issuer", "This is another issuer's.")
    audiences = claims.get("aud")
    if audience not in (audiences if isinstance(audiences, list) else [audiences]):
        return _bad("invalid_audience", "This is for somebody else.")
    issued_at, token_id, events = moment(claims.get("iat")), claims.get("jti"), claims.get("events")
    if (
        issued_at is None
        or not now - OLD_SECONDS <= issued_at <= now + bearer.SKEW_SECONDS
        or not is_name(token_id)
    ):
        return _bad("invalid_request", "iat and jti say when and which.")
    if "exp" in claims:  # RFC 8417 section 2.2 and 4.5: what expires was made for another use
        return _bad("invalid_request", "An event does not expire.")
    if not isinstance(events, dict) or not 0 < len(events) <= EVENTS_COUNT:
        return _bad("invalid_request", "events holds one event.")
    subjects: list[str] = []
    for kind, said in events.items():
        if kind not in WITHDRAWING:
            continue
        subject = _subject(claims, said)
        if subject is None or subject[0] != issuer:
            # SECURITY: an issuer speaks of its own subjects only.
            return _bad("invalid_request", "The subject is one of the issuer's own, as iss_sub.")
        subjects.append(subject[1])
    if not subjects and _VERIFICATION not in events:
        return _bad("invalid_request", "Events of this kind are not taken here.")
    return SecurityEvent(str(token_id), tuple(subjects), tuple(sorted(str(kind) for kind in events)))


def _subject(claims: Mapping[str, Any], said: object) -> tuple[str, str] | None:
    """Issuer and subject: ``sub_id`` of the token (RFC 9493), or what older senders put into the event."""
    found = claims.get("sub_id")
    if found is None and isinstance(said, dict):
        found = said.get("subject")
    if isinstance(found, dict) and isinstance(found.get("user"), dict):
        found = found["user"]  # a complex subject names the person as one of its parts
    if not isinstance(found, dict) or found.get("format", found.get("subject_type")) not in (
        "iss_sub",
        "iss-sub",
    ):
        return None
    issuer, subject = found.get("iss"), found.get("sub")
    return (str(issuer), str(subject)) if is_name(issuer) and is_name(subject) else None


def _bad(error: str, tell: str) -> EventRefusal:
    return EventRefusal(error, tell)
